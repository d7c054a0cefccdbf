"""Stage eval: bits per byte of base and tuned model, and their answers side by side. Out: `eval.json`. Next: export."""

from __future__ import annotations

from typing import Any

from luthier.config.schema import Recipe
from luthier.runs.files import fingerprint, write_json
from luthier.stages.order import model_stages
from luthier.stages.stage import Job, Outcome, Stage


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {
        "eval": recipe.eval.model_dump(mode="json"),
        "sampling": recipe.sampling.model_dump(mode="json"),
        "seed": recipe.run.seed,
        "tuned": len(model_stages(recipe)) > 1,
        "document_mask": recipe.pretrain.document_mask,
        "system_prompt": recipe.sft.system_prompt,
    }


def _run(job: Job) -> Outcome:
    from luthier.evals.answers import answer_questions, endings
    from luthier.evals.bits_per_byte import evaluate
    from luthier.generate.engine import Engine
    from luthier.pack.shards import TokenShards
    from luthier.stages.training import final_checkpoint, settle_compute
    from luthier.train.checkpoint import load_model

    recipe, settings = job.recipe, job.recipe.eval
    validation = TokenShards.open(job.inputs["pack"], "validation")
    compute = settle_compute(job, recipe.pretrain, 0, 1)
    result: dict[str, Any] = {"bits_per_byte": {}, "answers": []}
    answers: dict[str, list[dict[str, Any]]] = {}
    models = model_stages(recipe)
    stages = {"base": models[0], **{name: name for name in models[1:-1]}, **({"tuned": models[-1]} if len(models) > 1 else {})}
    for name, stage in stages.items():
        model, tokenizer = load_model(final_checkpoint(job.inputs[stage]), compute.device)
        model.compute_dtype = compute.dtype
        n_predicted = min(settings.max_tokens or validation.n_tokens, validation.n_tokens) - 1  # the first has nothing before it
        with job.progress.bar(f"eval {name}", n_predicted, "tokens") as bar:
            lengths, masked = tokenizer.byte_lengths, recipe.pretrain.document_mask
            figures = evaluate(model, validation, lengths, compute.device, settings.max_tokens, bar, masked)
            result["bits_per_byte"][name] = figures
        engine = Engine(model, compute.device, None, model.config.max_seq_len)
        chat, system_prompt = name != "base", recipe.sft.system_prompt
        answers[name] = answer_questions(engine, tokenizer, settings.questions, recipe.sampling, recipe.run.seed, chat, system_prompt)
    for i, question in enumerate(settings.questions):
        result["answers"].append({"question": question, **{name: given[i] for name, given in answers.items()}})
    result["endings"] = {name: endings(given) for name, given in answers.items()}
    write_json(job.directory / "eval.json", result)
    return Outcome(fingerprint(result), result)


STAGE = Stage("eval", ("pack", "pretrain", "sft"), _run, _settings)
