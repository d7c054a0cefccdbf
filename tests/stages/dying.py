"""A process that kills itself: `python -m tests.stages.dying MOMENT ARGUMENTS...` is `luthier ARGUMENTS...` with SIGKILL at a moment.

A moment is one or more of `MODULE:NAME COUNT`, with ", " between them: the COUNT-th call of a function from there on, then of the next.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any


def die_at(moment: str) -> None:
    """Have this process killed when the last of the calls begins."""
    left = [(place, int(count)) for place, count in (call.split(" ") for call in moment.split(", "))]

    def watch(place: str) -> None:
        module, path = place.split(":")
        holder: Any = import_module(module)
        *owners, name = path.split(".")
        for owner in owners:
            holder = getattr(holder, owner)
        original = getattr(holder, name)

        def watched(*given: Any, **named: Any) -> Any:
            awaited, count = left[0]
            if awaited == place:
                left[0] = awaited, count - 1
                if count == 1 and len(left) == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                if count == 1:
                    left.pop(0)
            return original(*given, **named)

        setattr(holder, name, watched)

    for place in {place for place, _ in left}:
        watch(place)


if __name__ == "__main__":
    from luthier.cli import call

    die_at(sys.argv[1])
    sys.exit(call(sys.argv[2:]))
