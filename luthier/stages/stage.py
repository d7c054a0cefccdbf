"""What a stage is. In: a job. Out: an outcome. The pipeline decides whether it has to run at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.runs.progress import Progress
from luthier.train.stopping import StopRequest


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
