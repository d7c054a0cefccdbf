"""Stage tokenizer: documents -> tokenizer. In: training documents. Out: `tokenizer.json` and measures. Next: pack."""

from __future__ import annotations

from itertools import islice
from typing import Any

from luthier.config.schema import Recipe
from luthier.runs.files import write_json
from luthier.stages.stage import Job, Outcome, Stage

MEASURED_DOCUMENTS = 2000


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {"tokenizer": recipe.tokenizer.model_dump(mode="json")}


def _run(job: Job) -> Outcome:
    from luthier.data.shards import read_texts, text_bytes
    from luthier.tokenizer.measures import measure
    from luthier.tokenizer.train import train_tokenizer

    documents = job.inputs["data"]
    texts = read_texts(documents, "train")
    tokenizer = train_tokenizer(texts, job.recipe.tokenizer, job.progress, text_bytes(documents, "train"))
    tokenizer.save(job.directory / "tokenizer.json")
    measures = measure(tokenizer, list(islice(read_texts(documents, "validation"), MEASURED_DOCUMENTS)))
    write_json(job.directory / "measures.json", measures)
    return Outcome(tokenizer.fingerprint, {"vocab_size": tokenizer.vocab_size, **measures})


STAGE = Stage("tokenizer", ("data",), _run, _settings)
