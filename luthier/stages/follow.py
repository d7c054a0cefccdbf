"""The other ranks' view of a recipe. In: a recipe, torchrun's environment. Out: this rank's part of the training. Next: none.

The leading rank runs the pipeline, takes the locks and writes everything. The others wait for what it makes alone and take part in
what is trained together; they write nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.config.schema import Recipe
from luthier.runs.progress import Progress
from luthier.runs.registry import find_run
from luthier.runs.store import StageRecord, Store
from luthier.stages.lineage import continued
from luthier.stages.pipeline import STAGES, address, load_stage
from luthier.stages.stage import Job, follows, wait_for

TOGETHER = ("pretrain", "sft")


def follow(recipe: Recipe, until: str, resume: str | None = None, allow: Sequence[str] = ()) -> None:
    """Take part in the stages of a recipe that are trained together, up to `until`.

    torchrun ends this process when the leading one fails.
    """
    assert follows(), "the leading rank runs the pipeline"
    store, progress = Store(Path(recipe.runs.root)), Progress()
    if resume is not None:
        recipe, _ = continued(recipe, find_run(resume, Path(recipe.runs.root)), store, allow)
    last = max(STAGES.index(name) for name in TOGETHER)
    records: dict[str, StageRecord] = {}
    for name in STAGES[: min(STAGES.index(until), last) + 1]:
        stage = load_stage(name)
        key, described = address(stage, recipe, store, records)
        directory = store.directory(name, key)
        if name in TOGETHER and store.finished(name, key) is None:
            inputs = {need: store.directory(need, records[need].key) for need in stage.needs}
            summaries = {need: records[need].summary for need in stage.needs}
            wait_for(lambda path=directory: path.is_dir() or None, directory)
            stage.run(Job(recipe, key, directory, inputs, summaries, store.cache, progress, described=described))
        records[name] = wait_for(lambda name=name, key=key: store.finished(name, key), directory)
