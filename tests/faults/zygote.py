"""A process that has imported everything and forks one child per attempt. In: requests as JSON lines. Out: what became of each.

An attempt is `luthier.cli.call([...])` in a fresh process, with the shim in place; starting it costs a fork instead of seconds of
imports. No thread runs in this process, so that forking it is safe, and pytest's own process is never forked.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.faults.shim import Fault, Shim

HANGS_AFTER = 120.0
"""Seconds after which an attempt counts as hanging."""
_MODULES = (
    "luthier.cli", "luthier.stages.run", "luthier.stages.data", "luthier.stages.tokenizer", "luthier.stages.pack",
    "luthier.stages.pretrain", "luthier.stages.training", "luthier.stages.report", "luthier.data.documents", "luthier.pack.shards",
    "luthier.tokenizer.train", "luthier.tokenizer.measures", "luthier.evals.bits_per_byte", "luthier.generate.engine",
    "luthier.train.device", "pyarrow.parquet", "tiktoken", "tiktoken_ext.openai_public", "torch._dynamo", "ftfy", "rich.progress",
    "luthier.optim.schedule", "_strptime",
)  # fmt: skip
_MODULES_IF_THERE = ("pandas",)
"""pyarrow imports it when it is installed."""


@dataclass(frozen=True)
class Attempt:
    """How one attempt ended. `code` is the exit code, or minus the signal that killed it."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    hits: int
    """How often the fault struck; unknown, so 0, after a kill."""
    operations: list[tuple[str, str, dict[str, Any]]]

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Zygote:
    """The suite's side: starts the process, asks it for attempts."""

    def __init__(self, directory: Path, hash_seed: int = 0) -> None:
        """`directory` gets what attempts print; `hash_seed` decides the order of sets, as each new process of Python's does."""
        self._directory = directory
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LUTHIER")}
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": str(hash_seed)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def attempt(
        self, arguments: Sequence[str], watch: Path, fault: Fault | None = None, *, content: bool = False, kill_after: float | None = None
    ) -> Attempt:
        """Run the command line once, below `watch`, with at most one fault, or killed after so many seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        files = {name: str(self._directory / f"attempt.{name}") for name in ("stdout", "stderr", "operations")}
        request = {
            "arguments": list(arguments), "watch": str(watch), "fault": asdict(fault) if fault else None, "content": content,
            "kill_after": kill_after, "files": files,
        }  # fmt: skip
        for file in files.values():
            Path(file).unlink(missing_ok=True)
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"code": null}')
        if answer["code"] is None:
            raise RuntimeError("the process that forks attempts is gone")
        printed = {name: Path(files[name]).read_text("utf-8", "replace") for name in ("stdout", "stderr")}
        report = Path(files["operations"])
        seen = json.loads(report.read_text()) if report.exists() else {"hits": 0, "operations": []}
        return Attempt(answer["code"], **printed, seconds=answer["seconds"], hits=seen["hits"], operations=seen["operations"])

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()


def _child(request: dict[str, Any]) -> None:
    """Be the attempt; never returns."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(request["files"][name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    import numpy as np

    from luthier.cli import call

    np.random.seed()  # each new process draws its own, and a fork does not; Python's own generator does this by itself
    for name, module in list(sys.modules.items()):  # 0.3 s to measure a rate that nobody here looks at
        if name.startswith("luthier.") and hasattr(module, "measure_matmul"):
            module.measure_matmul = lambda *given, **named: 1e12  # type: ignore[attr-defined]
    shim = Shim(Path(request["watch"]), Fault(**request["fault"]) if request["fault"] else None, content=request["content"])
    code = 1
    try:
        with shim.installed():
            code = call(request["arguments"])
            for thread in threading.enumerate():
                if thread is not threading.main_thread() and not thread.daemon:
                    thread.join()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    Path(request["files"]["operations"]).write_text(json.dumps({"hits": shim.hits, "operations": shim.operations}))
    os._exit(code)


def _wait(child: int, kill_after: float | None) -> int:
    """Wait for an attempt; kill it when its time has come, or when it hangs."""
    started = time.monotonic()
    limit = HANGS_AFTER if kill_after is None else kill_after
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - started >= limit:
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return code if kill_after is not None else 124
        time.sleep(0.002)


def main() -> None:
    """Answer requests until there are no more."""
    for module in _MODULES:
        importlib.import_module(module)
    for module in _MODULES_IF_THERE:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    assert threading.active_count() == 1, "forking is safe only with one thread"
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(request)
        code = _wait(child, request["kill_after"])
        print(json.dumps({"code": code, "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main()
