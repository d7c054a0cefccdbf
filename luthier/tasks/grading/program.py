"""Programs that pass their tests. In: Python in an answer, and tests. Out: 1 when the tests pass. Next: judge.

The program runs in a process of its own, in an empty folder and environment, with the limits of `confine`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from luthier.tasks.grading.confine import SECONDS, confine

_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def program(response: str, answer: str) -> float:
    """Grade 1 when the answer's tests, Python statements that raise where something is wrong, run to their end behind the program."""
    fenced = _FENCED.findall(response)
    token = secrets.token_hex(16)
    source = f"{fenced[-1] if fenced else response}\n\n{answer}\n\nprint({token!r})\n"
    with tempfile.TemporaryDirectory(prefix="luthier-program-") as folder:
        path = Path(folder) / "program.py"
        path.write_text(source, "utf-8", errors="replace")
        return float(token in _output(path))


def _output(path: Path) -> str:
    """What a program prints before it ends well; nothing when it fails, or its time is up."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=path.parent,
        env={"PATH": "", "HOME": str(path.parent)},
        preexec_fn=partial(confine, path.parent),  # safe: the judge's process has one thread
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        printed = b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, too, where it could have some
        process.communicate()
    return printed[-1000:].decode("utf-8", "replace") if process.returncode == 0 else ""
