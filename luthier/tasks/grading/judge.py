"""Who grades. In: problems and responses. Out: rewards, and what went wrong. Next room: post, evals.

Graders run in a process of their own. One that raises counts as no reward; one that hangs is ended after so many seconds, counts as no
reward, too, and the process is started again; so does an answer for which the process cannot be started. All of it is reported, and
training goes on; only where the process fails to start several times in a row, grading ends with an error.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import luthier
from luthier.errors import ConfigError, HardwareError
from luthier.tasks.grading.graders import GRADERS, RUNS_CODE
from luthier.tasks.problems import Problem

SECONDS = 10.0
_START_SECONDS = 120.0
_MOST_FAILED_STARTS = 3
_MOST_EXAMPLES = 5
_WORKER = "luthier.tasks.grading.worker"


@dataclass(frozen=True, slots=True)
class Grade:
    """A reward in [0, 1], and what was wrong with the grading itself, if anything was."""

    reward: float
    fault: str | None = None


@dataclass
class Judge:
    """Grades responses one after another; use it as a context, or close it.

    `seconds` is the time one grading may take. `allow_code` lets the grader `program` run what a model wrote.
    """

    seconds: float = SECONDS
    allow_code: bool = False
    faults: Counter[str] = field(default_factory=lambda: Counter[str]())
    """How often grading went wrong, by grader and reason."""
    examples: list[Mapping[str, Any]] = field(default_factory=lambda: list[Mapping[str, Any]]())
    """The first of them: problem, response, reason."""
    _process: subprocess.Popen[bytes] | None = None
    _failed_starts: int = 0
    """In a row."""

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def grade(self, problem: Problem, response: str) -> Grade:
        """Grade one response.

        Raises: ConfigError for a grader that is unknown, or that is not allowed here; HardwareError when the process failed to start three
        times in a row
        """
        if problem.grader not in GRADERS:
            raise ConfigError(f"a problem's grader must be one of {', '.join(GRADERS)}, got {problem.grader!r}")
        if problem.grader in RUNS_CODE and not self.allow_code:
            raise ConfigError(f"the grader {problem.grader!r} runs what a model wrote, which is not allowed", fix="set allow_code")
        grade = self._ask(problem.grader, response, problem.answer)
        if grade.fault is not None:
            self.faults[f"{problem.grader}: {grade.fault}"] += 1
            if len(self.examples) < _MOST_EXAMPLES:
                self.examples.append({"problem": problem.id, "response": response[:500], "fault": grade.fault})
        return grade

    def grade_all(self, pairs: Iterable[tuple[Problem, str]]) -> list[Grade]:
        """Grade many responses, in their order."""
        return [self.grade(problem, response) for problem, response in pairs]

    def close(self) -> None:
        """End the process; the next grading starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _ask(self, grader: str, response: str, answer: str) -> Grade:
        if self._process is None and (fault := self._begin()) is not None:
            return Grade(0.0, fault)
        assert self._process is not None
        line = json.dumps([grader, response, answer]).encode() + b"\n"
        said = self._said(line, self.seconds)
        if not said:
            code = self._process.poll()
            self.close()
            return Grade(0.0, f"took longer than {self.seconds:g} s" if code is None else f"ended its process with code {code}")
        reward, fault = json.loads(said)
        return Grade(reward, fault)

    def _begin(self) -> str | None:
        """Start the process, or say why there is none."""
        try:
            self._process = _start(self.seconds)
        except OSError as error:
            fault = f"has no process: {error}"
        else:
            if self._said(b'["exact", "", ""]\n', _START_SECONDS):
                self._failed_starts = 0
                return None
            self.close()
            fault = "has a process that does not answer"
        self._failed_starts += 1
        if self._failed_starts == _MOST_FAILED_STARTS:
            raise HardwareError(
                f"{_MOST_FAILED_STARTS} times in a row no answer could be graded: the grader {fault}",
                fix=f"see that `{sys.executable} -m {_WORKER}` starts, and that memory and processes are left; then run again",
            )
        return fault

    def _said(self, line: bytes, seconds: float) -> bytes:
        """Send a line and wait for the answer; nothing when it does not come in time, or the process is gone."""
        process, end = self._process, time.monotonic() + seconds
        assert process is not None and process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line)
            process.stdin.flush()
        said = b""
        while not said.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return b""
            piece = os.read(process.stdout.fileno(), 65_536)
            if not piece:
                process.wait()
                return b""
            said += piece
        return said


def _start(seconds: float) -> subprocess.Popen[bytes]:
    root = str(Path(luthier.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", _WORKER, str(math.ceil(seconds))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # a Ctrl-C is not for it: it ends with its input
    )
