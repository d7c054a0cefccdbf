"""The other ranks' view of a recipe. In: a recipe, torchrun's environment. Out: this rank's part of the training. Next: none.

The leading rank runs the pipeline, takes the locks and writes everything. The others wait for what it makes alone and take part in
what is trained together; they write nothing. When one rank ends, torchrun ends the others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from luthier.config.schema import Recipe
from luthier.errors import StorageError
from luthier.runs.lock import is_locked
from luthier.runs.progress import Progress
from luthier.runs.registry import find_run
from luthier.runs.store import StageRecord, Store
from luthier.stages.lineage import continued
from luthier.stages.order import load_stage
from luthier.stages.pipeline import address, stages_until
from luthier.stages.stage import Job, follows, wait_for

SAVING = 600.0
"""How long the leading rank may take to save when all stop. Units: seconds"""


def follow(recipe: Recipe, until: str, resume: str | None = None, allow: Sequence[str] = ()) -> None:
    """Take part in the stages of a recipe that are trained together, up to `until`."""
    assert follows(), "the leading rank runs the pipeline"
    store, progress = Store(Path(recipe.runs.root)), Progress()
    if resume is not None:
        recipe, _ = continued(recipe, find_run(resume, Path(recipe.runs.root)), store, allow)
    records: dict[str, StageRecord] = {}
    stages = [load_stage(name, recipe) for name in stages_until(recipe, until)]
    last = max((number for number, stage in enumerate(stages) if stage.trains), default=len(stages) - 1)
    for stage in stages[: last + 1]:
        name = stage.name
        key, described = address(stage, recipe, store, records)
        directory = store.directory(name, key)
        if stage.trains and store.finished(name, key) is None:
            inputs = {need: store.directory(need, records[need].key) for need in stage.needs}
            summaries = {need: records[need].summary for need in stage.needs}
            wait_for(lambda path=directory: path.is_dir() or None, directory)
            try:
                stage.run(Job(recipe, key, directory, inputs, summaries, store.cache, progress, described=described))
            except Exception:
                _let_the_leader_finish(directory)
                raise
        records[name] = wait_for(lambda name=name, key=key: store.finished(name, key), directory)


def _let_the_leader_finish(directory: Path) -> None:
    """Wait while the leading rank saves what there is: torchrun would soon kill it if this rank ended first."""
    with contextlib.suppress(StorageError):
        wait_for(lambda: None if is_locked(directory) else True, directory, SAVING)
    time.sleep(1.0)  # for its last words
