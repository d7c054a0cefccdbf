"""Stage data: sources -> documents. In: `[data]`. Out: document shards and a manifest with counts and licences. Next: tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.data.engine import Spread
from luthier.errors import ConfigError
from luthier.runs.progress import Progress
from luthier.runs.store import Store, stage_key
from luthier.stages.stage import Job, Outcome, Stage


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What decides the documents; tokens are counted when they are packed, and memory changes nothing."""
    said = recipe.data.model_dump(mode="json", exclude={"budget": {"tokens"}, "near": {"memory"}})
    return {"data": said, "seed": recipe.run.seed}


def _sources(recipe: Recipe, cache: Path) -> dict[str, str]:
    from luthier.data.reading.sources import source_fingerprint

    if not recipe.data.sources:
        raise ConfigError("data.sources: at least one source is needed", fix="""for example 'data.sources=["my_folder"]'""")
    return {f"source.{i}": source_fingerprint(source, cache) for i, source in enumerate(recipe.data.sources)}


def _run(job: Job) -> Outcome:
    from luthier.data.documents import build_documents

    manifest = build_documents(job.recipe.data, job.recipe.run.seed, job.directory, job.cache, job.progress, job.spread)
    for source in manifest["sources"]:
        counts = {**source.get("dropped", {}), **source.get("repaired", {})}
        if counts:
            what = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in counts.items())
            job.progress.say(f"data: {source['name']}: left out or repaired: {what}")
    return Outcome(manifest["fingerprint"], {"splits": manifest["splits"], "sources": manifest["sources"]})


def take_part(recipe: Recipe, spread: Spread, progress: Progress) -> bool:
    """Work as one rank of an array job that does not lead; say whether there was anything to do."""
    from luthier.data.documents import build_documents

    store = Store(Path(recipe.runs.root))
    sources = _sources(recipe, store.cache)
    key = stage_key(STAGE.name, STAGE.version, STAGE.settings(recipe), sources)
    if store.finished(STAGE.name, key) is not None:
        return False
    build_documents(recipe.data, recipe.run.seed, store.directory(STAGE.name, key), store.cache, progress, spread)
    return True


STAGE = Stage("data", (), _run, _settings, _sources, version=3)
