"""The process in which graders run. In: a line of JSON for each response. Out: a line with a reward, or a reason. Next: judge."""

from __future__ import annotations

import json
import math
import signal
import sys
from typing import IO

from luthier.tasks.grading.graders import GRADERS

MEMORY = 2**32
_GRACE_SECONDS = 30


def serve(requests: IO[str], replies: IO[str], seconds: int) -> None:
    """Answer each request until there are no more.

    Should the judge die while a grader hangs, this process ends some seconds after those that it had.
    """
    for line in requests:
        grader, response, answer = json.loads(line)
        signal.alarm(seconds + _GRACE_SECONDS)
        said = reply(grader, response, answer)
        signal.alarm(0)
        replies.write(json.dumps(said) + "\n")
        replies.flush()


def reply(grader: str, response: str, answer: str) -> list[float | str | None]:
    """Grade; whatever a grader raises becomes a reward of 0 with the reason."""
    try:
        reward = float(GRADERS[grader](response, answer))
    except Exception as error:  # the grader's or the answer's fault, which must not end a training
        return [0.0, f"raised {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}".rstrip(": ")]
    if not math.isfinite(reward) or not 0.0 <= reward <= 1.0:
        return [0.0, f"gave {reward}, which is not in [0, 1]"]
    return [reward, None]


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on this system
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if most < 0 else min(MEMORY, most), most))


if __name__ == "__main__":
    _limit_memory()
    serve(sys.stdin, sys.stdout, int(sys.argv[1]))
