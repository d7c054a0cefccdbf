"""Stage tokenizer: documents -> tokenizer. In: training documents. Out: `tokenizer.json` and measures. Next: pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.stages.stage import Job, Outcome, Stage


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {"tokenizer": recipe.tokenizer.model_dump(mode="json", exclude={"path"})}


def _sources(recipe: Recipe, cache: Path) -> dict[str, str]:
    """A tokenizer from a file is known by the file's content, wherever it lies."""
    if recipe.tokenizer.path is None:
        return {}
    from luthier.tokenizer.foreign import import_tokenizer

    path = Path(recipe.tokenizer.path)
    if not path.exists():
        raise ConfigError(f"tokenizer.path: there is no {path}", fix="give a tokenizer.json, a folder with one, or a file of ranks")
    return {"tokenizer": import_tokenizer(path).fingerprint}


def _run(job: Job) -> Outcome:
    from luthier.data.shards import read_texts, text_bytes, verified_shards
    from luthier.runs.files import write_json
    from luthier.stages.tokenizers import validation_texts
    from luthier.tokenizer.foreign import import_tokenizer
    from luthier.tokenizer.measures import measure_all
    from luthier.tokenizer.train import train_tokenizer

    documents, config = job.inputs["data"], job.recipe.tokenizer
    texts, total = read_texts(documents, "train"), text_bytes(documents, "train")
    if config.path is None:
        tokenizer = train_tokenizer(texts, config, job.progress, total, verified_shards(documents, "train"))
    else:
        tokenizer = import_tokenizer(Path(config.path))
        if config.extend:
            from luthier.tokenizer.extend import extend_tokenizer

            tokenizer = extend_tokenizer(tokenizer, texts, config, job.progress, total)
    tokenizer.save(job.directory / "tokenizer.json")
    measures = measure_all(tokenizer, validation_texts(documents))
    write_json(job.directory / "measures.json", measures)
    return Outcome(tokenizer.fingerprint, {"vocab_size": tokenizer.vocab_size, **measures})


STAGE = Stage("tokenizer", ("data",), _run, _settings, _sources, version=2)
