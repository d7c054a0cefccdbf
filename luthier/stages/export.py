"""Stage export: the final model as a Hugging Face folder with its model card, proven equal. Next: report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.config.schema import Recipe
from luthier.runs.progress import Progress
from luthier.stages.order import model_stages
from luthier.stages.stage import Job, Outcome, Stage


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {
        "export": recipe.export.model_dump(mode="json"),
        "sampling": recipe.sampling.model_dump(mode="json"),
        "questions": list(recipe.eval.questions),
        "name": recipe.run.name,
        "description": recipe.description,
        "tuned": len(model_stages(recipe)) > 1,
    }


def export_checkpoint(checkpoint: Path, recipe: Recipe, folder: Path, progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a checkpoint's Hugging Face folder; return what was written, and what comparing it gave.

    Raises: StorageError; CheckpointError; LuthierError when `transformers` says something else
    """
    from luthier.export.hf import export_hugging_face
    from luthier.export.parity import check_parity
    from luthier.tokenizer.chat import chat_template
    from luthier.train.checkpoint import load_model

    model, tokenizer = load_model(checkpoint)
    report = export_hugging_face(model, tokenizer, folder, recipe.export.dtype, chat_template(tokenizer), recipe.sampling)
    if not recipe.export.parity_prompts or recipe.export.dtype != "fp32":
        rounded = f"not compared: rounded to {recipe.export.dtype}"
        return report, {"checked": False, "reason": "export.parity_prompts is 0" if recipe.export.dtype == "fp32" else rounded}
    prompts = [*recipe.eval.questions, *recipe.pretrain.sample_prompts][: recipe.export.parity_prompts]
    with progress.bar("export: parity", len(prompts), "prompts") as bar:
        parity = check_parity(folder, model, tokenizer, prompts, recipe.export.parity_tokens)
        bar.advance(len(prompts))
    return report, parity


def _run(job: Job) -> Outcome:
    from luthier.export.card import model_card
    from luthier.runs.files import fingerprint, write_text
    from luthier.stages.training import final_checkpoint

    folder = job.directory / "huggingface"
    last = final_checkpoint(job.inputs[model_stages(job.recipe)[-1]])
    report, parity = export_checkpoint(last, job.recipe, folder, job.progress)
    write_text(folder / "README.md", model_card(job.recipe, job.summaries))
    return Outcome(fingerprint(report), {"parity": parity, "folder": folder.name})


STAGE = Stage("export", ("data", "pretrain", "sft", "eval"), _run, _settings, version=2)
