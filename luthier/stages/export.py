"""Stage export: the final model as a Hugging Face folder with its model card, proven equal. Next: report."""

from __future__ import annotations

from typing import Any

from luthier.config.schema import Recipe
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


def _run(job: Job) -> Outcome:
    from luthier.export.card import model_card
    from luthier.export.hf import export_hugging_face
    from luthier.export.parity import check_parity
    from luthier.runs.files import fingerprint, write_text
    from luthier.stages.training import final_checkpoint
    from luthier.tokenizer.chat import chat_template
    from luthier.train.checkpoint import load_model

    recipe = job.recipe
    model, tokenizer = load_model(final_checkpoint(job.inputs[model_stages(recipe)[-1]]))
    folder = job.directory / "huggingface"
    report = export_hugging_face(model, tokenizer, folder, recipe.export.dtype, chat_template(tokenizer), recipe.sampling)
    write_text(folder / "README.md", model_card(recipe, job.summaries))
    unchecked = "export.parity_prompts is 0" if recipe.export.dtype == "fp32" else f"not compared: rounded to {recipe.export.dtype}"
    parity: dict[str, Any] = {"checked": False, "reason": unchecked}
    if recipe.export.parity_prompts and recipe.export.dtype == "fp32":
        prompts = [*recipe.eval.questions, *recipe.pretrain.sample_prompts][: recipe.export.parity_prompts]
        with job.progress.bar("export: parity", len(prompts), "prompts") as bar:
            parity = check_parity(folder, model, tokenizer, prompts, recipe.export.parity_tokens)
            bar.advance(len(prompts))
    return Outcome(fingerprint(report), {"parity": parity, "folder": folder.name})


STAGE = Stage("export", ("data", "pretrain", "sft", "eval"), _run, _settings, version=2)
