"""Stage pack: documents and tokenizer -> token shards. Out: what the loader maps into memory. Next: pretrain."""

from __future__ import annotations

from typing import Any

from luthier.config.schema import Recipe
from luthier.runs.files import fingerprint
from luthier.stages.stage import Job, Outcome, Stage


def _settings(recipe: Recipe) -> dict[str, Any]:
    tokens = recipe.data.budget.tokens
    return {"pack": recipe.pack.model_dump(mode="json", exclude={"rows"}), **({} if tokens is None else {"budget": tokens})}


def _run(job: Job) -> Outcome:
    from luthier.pack.shards import pack_documents
    from luthier.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(job.inputs["tokenizer"] / "tokenizer.json")
    manifest = pack_documents(job.inputs["data"], tokenizer, job.recipe.pack, job.directory, job.progress, job.recipe.data.budget.tokens)
    return Outcome(fingerprint(manifest), {"splits": manifest.get("splits", {})})


STAGE = Stage("pack", ("data", "tokenizer"), _run, _settings, version=3)
