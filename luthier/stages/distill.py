"""Stage kind distill: a larger model's distributions -> a model nearer to it. In: the model before, a teacher. Out: checkpoints.

Who learns is the model before, or a new one, whose teacher may then be the model before. Next: eval.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config.load import resolve_model
from luthier.config.post import DistillSection
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.stages.pretrain import training_settings
from luthier.stages.stage import Job, Outcome, Stage
from luthier.stages.tuning import system_messages

if TYPE_CHECKING:
    from luthier.model.decoder import Decoder
    from luthier.tokenizer.tokenizer import Tokenizer


def teacher_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, a stage's last one, or that of the last model that a run has.

    Raises: ConfigError when there is none
    """
    from luthier.runs.directory import RUN_RECORD, RunDirectory
    from luthier.stages.again import recorded_recipe
    from luthier.stages.order import model_stages
    from luthier.stages.training import final_checkpoint
    from luthier.train.checkpoint import MANIFEST, checkpoints

    found = [path] if (path / MANIFEST).is_file() else checkpoints(path / "checkpoints")
    if not found and (path / RUN_RECORD).is_file():
        run = RunDirectory(path)
        made = [directory for name in model_stages(recorded_recipe(run, path.parent)) if (directory := run.stage(name))]
        found = [final_checkpoint(made[-1])] if made else []
    if not found:
        raise ConfigError(f"teacher: {path} is no checkpoint, and has none", fix="give a finished run's directory, or a checkpoint's")
    return found[-1]


def _settings(section: DistillSection, recipe: Recipe) -> dict[str, Any]:
    return {
        "distill": {key: value for key, value in training_settings(section).items() if key != "teacher"},
        "optim": recipe.optim.model_dump(mode="json"),
        "seq_len": recipe.pack.seq_len,
        "rows": recipe.pack.rows,
        "document_mask": recipe.pretrain.document_mask,
        "seed": recipe.run.seed,
    }


def _sources(section: DistillSection, cache: Path) -> dict[str, str]:
    """A teacher from elsewhere is known by its weights, wherever it lies."""
    from luthier.runs.manifest import read_manifest
    from luthier.train.checkpoint import MANIFEST

    if section.teacher is None:
        return {}
    path = teacher_checkpoint(Path(section.teacher))
    manifest = read_manifest(path / MANIFEST)
    if manifest is None:
        raise ConfigError(f"{path / MANIFEST}: missing or not what was written", fix="give another teacher")
    return {"teacher": str(manifest["weights_sha256"])}


def _rows(job: Job, section: DistillSection) -> tuple[Any, Any]:
    """Training rows and held-out rows."""
    from luthier.pack.conversations import ConversationRows
    from luthier.pack.rows import training_rows
    from luthier.pack.shards import TokenShards

    if section.rows == "sft":
        if not job.recipe.sft.sources:
            raise ConfigError(f"{section.name}: rows = 'sft' needs conversations", fix="give sft.sources, or set rows to 'pretrain'")
        return ConversationRows.open(job.inputs["sft"], "train"), ConversationRows.open(job.inputs["sft"], "validation")
    given = (job.recipe.pack.rows, job.recipe.pack.seq_len, job.recipe.pretrain.document_mask)
    train, held_out = (training_rows(TokenShards.open(job.inputs["pack"], split), *given) for split in ("train", "validation"))
    return train, held_out


def _pair(job: Job, section: DistillSection, before: str, tokenizer: Tokenizer) -> tuple[Decoder, Decoder]:
    """Who learns, and who teaches.

    Raises: ConfigError when they do not have the same tokens
    """
    from luthier.model.decoder import Decoder, initialise
    from luthier.stages.training import final_checkpoint
    from luthier.train.checkpoint import load_model

    last = final_checkpoint(job.inputs[before])
    teacher, its_own = load_model(teacher_checkpoint(Path(section.teacher)) if section.teacher else last)
    if section.student is None:
        model, _ = load_model(last)
    else:
        taught = job.recipe.model_copy(update={"model": section.student})
        model = Decoder(resolve_model(taught, teacher.config.vocab_size)).eval()
        initialise(model, job.recipe.run.seed)
    if its_own.fingerprint != tokenizer.fingerprint or teacher.config.vocab_size != model.config.vocab_size:
        raise ConfigError(f"{section.name}: {section.teacher} has another tokenizer", fix="train the teacher with the same [tokenizer]")
    return model, teacher


def _run(job: Job, section: DistillSection, before: str) -> Outcome:
    from luthier.optim.schedule import course
    from luthier.plan.horizon import rows_per_step
    from luthier.plan.parameters import count
    from luthier.post.adapters import low_rank
    from luthier.post.distill import Distillation, mean_divergence
    from luthier.stages.attention import choose_attention
    from luthier.stages.before import Onlooker
    from luthier.stages.recorder import Training
    from luthier.stages.training import run_training, settle_compute
    from luthier.tokenizer.tokenizer import Tokenizer
    from luthier.train.objective import mean_loss

    recipe, tokenizer = job.recipe, Tokenizer.load(job.inputs["tokenizer"] / "tokenizer.json")
    model, teacher = _pair(job, section, before, tokenizer)
    train, held_out = _rows(job, section)
    steps = section.steps or max(1, math.ceil(section.epochs * train.n_rows / rows_per_step(section.global_batch_tokens, train.seq_len)))
    documents = section.rows == "sft" or recipe.pretrain.document_mask
    attention = partial(choose_attention, job=job, settings=section, config=model.config, documents=documents)
    compute = settle_compute(job, section, steps * section.global_batch_tokens, model.config.n_layers, attention)
    for one in (model, teacher):
        one.compute_dtype, one.attention = compute.dtype, compute.attention
        one.to(compute.device)
    system = system_messages(recipe.sft.system_prompt)
    onlooker = Onlooker(job, model, tokenizer, compute.device, section.eval_tokens, section.sample_prompts, system)

    def validate() -> dict[str, float]:
        loss = mean_loss(model, held_out, compute.device, section.eval_tokens)
        divergence = mean_divergence(teacher, model, held_out, compute.device, section.eval_tokens)
        return {"val/loss": loss, "val/divergence": divergence, **onlooker.regression()}

    optim = section.settle_optim(recipe.optim)
    objective = Distillation(teacher, section.mix, section.temperature, model.config.logit_softcap)
    given = (job, section.name, section, optim, model, tokenizer, train, steps, compute, course(section, steps), validate)
    outcome = run_training(Training(*given, onlooker.answers, objective=objective, optimizer=low_rank(section, recipe.run.seed)))
    made = {"params": count(model.config)["total"]} if section.student is not None else {}
    return Outcome(outcome.fingerprint, {**made, "found": onlooker.found(), **outcome.summary})


def stage_after(section: DistillSection, before: str) -> Stage:
    """Distillation of `[[post]]`, which begins with the model of the stage `before`, or has it as its teacher."""
    conversations = ("sft",) if section.rows == "sft" and before != "sft" else ()
    return Stage(
        section.name,
        ("tokenizer", "pack", before, *conversations),
        lambda job: _run(job, section, before),
        lambda recipe: _settings(section, recipe),
        lambda recipe, cache: _sources(section, cache),
        trains=True,
    )
