"""What a stage is. In: a job. Out: an outcome. The pipeline decides whether it has to run at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from luthier.config.schema import Recipe
from luthier.data.engine import Spread
from luthier.errors import StorageError
from luthier.runs.progress import Progress
from luthier.train.stopping import StopRequest

T = TypeVar("T")
PATIENCE = 24 * 3600.0
"""How long a rank waits for what the leading one makes alone. Units: seconds"""


def follows() -> bool:
    """Whether this process is one of several, and not the leading one: it computes, and writes nothing."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def wait_for(look: Callable[[], T | None], path: Path, seconds: float = PATIENCE) -> T:
    """Look again and again until the leading rank has made something.

    Raises: StorageError when it does not appear
    """
    end = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > end:
            raise StorageError(f"{path}: rank {os.environ.get('RANK')} waited for this in vain", fix="all ranks need the same file system")
        time.sleep(0.1)
    return found


def _unnoticed(stage: str, step: int | None, steps: int | None) -> None:
    return


@dataclass(frozen=True)
class Job:
    """What a stage gets to work with."""

    recipe: Recipe
    key: str
    directory: Path
    """The stage's own output; whatever an interrupted attempt left is still there."""
    inputs: Mapping[str, Path]
    """The output directories of the stages it needs."""
    summaries: Mapping[str, Mapping[str, Any]]
    """What those stages said of themselves."""
    cache: Path
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    """Asked between two steps whether to stop."""
    note: Callable[[str, int | None, int | None], None] = _unnoticed
    """Told the stage's name, the step and the number of steps, for the heartbeat."""
    spread: Spread = field(default_factory=Spread)
    """Where the work on documents is done."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """What the key is the hash of: settings, and fingerprints of inputs."""


@dataclass(frozen=True)
class Outcome:
    """What a stage made: a hash of it, and what a summary should say."""

    fingerprint: str
    summary: dict[str, Any] = field(default_factory=dict)


def _nothing(recipe: Recipe, cache: Path) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Stage:
    """A step of a model's life. `settings` and `sources` say what, besides its inputs, decides its output."""

    name: str
    needs: tuple[str, ...]
    run: Callable[[Job], Outcome]
    settings: Callable[[Recipe], dict[str, Any]]
    sources: Callable[[Recipe, Path], dict[str, str]] = _nothing
    version: int = 1
    """Raised when the same settings would make something else than before."""
    trains: bool = False
    """Whether it trains a model: several ranks do so together."""
