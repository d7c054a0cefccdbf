"""Programs that pass their tests. In: Python in an answer, and tests. Out: 1 when the tests pass. Next: judge.

The program runs in a process of its own, in an empty folder and environment, with the limits of `confine`. That its tests ran to their end
is said by a secret word, which it finds in no file, argument or environment; one that is out to cheat can still look for it in its callers'
frames.
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
from typing import IO

from luthier.tasks.grading.confine import SECONDS, confine

_HARNESS = """
def run():
    import os, sys
    word, path, out, say = os.read(0, 64).decode(), sys.argv.pop(), sys.stdout, print
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    sys.argv[:] = [path]
    space = globals()
    space["__file__"] = path
    del space["run"]
    exec(code, space)
    say(word, file=out, flush=True)
run()
"""
_READ = 1000
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def program(response: str, answer: str) -> float:
    """Grade 1 when the answer's tests, Python statements that raise where something is wrong, run to their end behind the program."""
    fenced = _FENCED.findall(response)
    source = f"{fenced[-1] if fenced else response}\n\n{answer}\n"
    with tempfile.TemporaryDirectory(prefix="luthier-program-") as folder:
        path = Path(folder) / "program.py"
        path.write_text(source, "utf-8", errors="replace")
        word = secrets.token_hex(16).encode()
        with tempfile.TemporaryFile(dir=folder) as out:
            return float(_ends_well(path, word, out) and word in _end(out))


def _end(file: IO[bytes]) -> bytes:
    """The last bytes of a file."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _READ))
    return file.read(_READ)


def _ends_well(path: Path, word: bytes, out: IO[bytes]) -> bool:
    """Whether a program ends, and well, in its time; what it prints goes into a file, which has a limit."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", _HARNESS, str(path)],
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=subprocess.DEVNULL,
        cwd=path.parent,
        env={"PATH": "", "HOME": str(path.parent)},
        preexec_fn=partial(confine, path.parent),  # safe: the judge's process has one thread
        start_new_session=True,
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(word, timeout=SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, too, where it could have some
        process.wait()
    return process.returncode == 0
