"""Programs that pass their tests. In: Python in an answer, and tests. Out: 1 when the tests pass. Next: judge.

The program runs in a process of its own, in an empty folder and environment, with limits on time, memory, file size and processes,
and, where the system lets anybody do so, without a network. This stops accidents; it is no wall against code that is out to do harm.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 3
MEMORY = 2**29
FILE_BYTES = 2**20
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER and CLONE_NEWNET of linux/sched.h
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
        preexec_fn=_confine,  # safe: the judge's process has one thread
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        printed = b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, too
        process.communicate()
    return printed[-1000:].decode("utf-8", "replace") if process.returncode == 0 else ""


def _confine() -> None:
    import resource

    limits = {
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 32,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)  # a system that forbids it answers with an error and changes nothing
