"""Processes that train together, forked from one that has imported everything, on a port of their own. In: plays. Out: each rank's part.

`python -m tests.ranks MODULE` reads a list of plays, as JSON, and performs them one after the other: for each rank, a process calls
the module's `part(rank, size, **play)`, as if torchrun had started it, but nobody ends the others when one ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 60.0
"""Seconds after which the ranks that are left are killed, once one has ended."""
HANGS_AFTER = 120.0
"""Seconds after which all are killed."""


@dataclass(frozen=True)
class Part:
    """How a rank's part ended: exit code (minus the signal, if killed), result, what it printed to stderr, when it ended."""

    code: int
    result: Any
    said: str
    seconds: float


def perform(module: str, plays: list[dict[str, Any]]) -> list[list[Part]]:
    """Perform plays; each gives `size`, the arguments of `part`, and maybe `longest`."""
    command = [sys.executable, "-m", "tests.ranks", module]
    done = subprocess.run(command, input=json.dumps(plays), capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [[Part(**part) for part in parts] for parts in json.loads(done.stdout)]


def _play(part: Any, size: int, longest: float, arguments: dict[str, Any], scratch: Path) -> list[Part]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = {_fork(part, rank, size, shared, arguments, scratch): rank for rank in range(size)}
    ended: dict[int, tuple[int, float]] = {}
    began = time.monotonic()
    end = began + HANGS_AFTER
    while running:
        for pid in list(running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[running.pop(pid)] = (os.waitstatus_to_exitcode(status), time.monotonic() - began)
                end = min(end, time.monotonic() + longest)
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    read = [(json.loads(_read(scratch, rank, "out") or "null"), _read(scratch, rank, "err")) for rank in range(size)]
    return [Part(ended[rank][0], *read[rank], ended[rank][1]) for rank in range(size)]


def _read(scratch: Path, rank: int, name: str) -> str:
    return (scratch / f"{rank}.{name}").read_text()


def _fork(part: Any, rank: int, size: int, shared: dict[str, str], arguments: dict[str, Any], scratch: Path) -> int:
    for name in ("out", "err"):
        (scratch / f"{rank}.{name}").write_text("")
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
        errors = os.open(scratch / f"{rank}.err", os.O_WRONLY)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        result = part(rank, size, **arguments)
        (scratch / f"{rank}.out").write_text(json.dumps(result))
        code = 0
    except LuthierError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    part = importlib.import_module(sys.argv[1]).part
    performed: list[list[dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for play in json.load(sys.stdin):
            size, longest = play.pop("size"), play.pop("longest", LONGEST)
            performed.append([asdict(done) for done in _play(part, size, longest, play, Path(scratch))])
    print(json.dumps(performed))


if __name__ == "__main__":
    main()
