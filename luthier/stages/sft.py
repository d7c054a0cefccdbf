"""Stage sft: conversations -> a model that answers. In: the base model. Out: checkpoints, metrics, samples. Next: eval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config.post import PostSftSection
from luthier.config.schema import Recipe
from luthier.config.sft import SftSection
from luthier.errors import CheckpointError
from luthier.runs.files import fingerprint, read_json, write_json
from luthier.stages.pretrain import training_settings
from luthier.stages.stage import Job, Outcome, Stage, follows, wait_for
from luthier.stages.tuning import system_messages
from luthier.tasks.conversation import Conversation, Message

if TYPE_CHECKING:
    from luthier.tokenizer.tokenizer import Tokenizer


def _settings(section: SftSection, recipe: Recipe) -> dict[str, Any]:
    named = {"assistant_name": assistant_name(section, recipe)} if any(source.task == "personality" for source in section.sources) else {}
    return {
        **named,
        "sft": training_settings(section),
        "optim": recipe.optim.model_dump(mode="json"),
        "seq_len": section.seq_len or recipe.pack.seq_len,
        "seed": recipe.run.seed,
    }


def _sources(section: SftSection, cache: Path) -> dict[str, str]:
    from luthier.data.reading.sources import source_fingerprint
    from luthier.tasks.personality import DIALOGUES

    return {
        f"source.{i}": fingerprint(DIALOGUES) if source.builtin else source_fingerprint(source, cache)
        for i, source in enumerate(section.sources)
    }


def assistant_name(section: SftSection, recipe: Recipe) -> str:
    """What the model calls itself."""
    return section.assistant_name or recipe.run.name


def with_system(conversations: Sequence[Conversation], system: Sequence[Message]) -> list[Conversation]:
    """Put the system message in front of conversations that have none."""
    return [c if c.messages[0].role == "system" else replace(c, messages=(*system, *c.messages)) for c in conversations]


def require_same_template(ours: Tokenizer, its_own: Tokenizer, checkpoint: Path) -> None:
    """Refuse to tune a model with other tokens, or another chat template, than those it was trained with.

    Raises: CheckpointError
    """
    if ours.fingerprint == its_own.fingerprint:
        return
    what = "another chat template" if ours.chat != its_own.chat or ours.special != its_own.special else "another tokenizer"
    raise CheckpointError(f"{checkpoint}: it has {what} than the recipe", fix="use the [tokenizer] that it was pretrained with")


def _run(job: Job, settings: SftSection, name: str, before: str) -> Outcome:
    from luthier.optim.schedule import course
    from luthier.pack.conversations import ConversationRows, pack_conversations
    from luthier.plan.horizon import rows_per_step
    from luthier.post.adapters import low_rank
    from luthier.stages.attention import choose_attention
    from luthier.stages.before import Onlooker
    from luthier.stages.recorder import Training
    from luthier.stages.training import final_checkpoint, run_training, settle_compute
    from luthier.tasks.build import build_conversations
    from luthier.tokenizer.tokenizer import Tokenizer
    from luthier.train.checkpoint import load_model
    from luthier.train.objective import mean_loss

    recipe = job.recipe
    base = final_checkpoint(job.inputs[before])
    if not settings.sources:
        job.progress.say(f"{name}: no sources, the model stays as it is")
        return Outcome(str(job.summaries[before]["weights_sha256"]), {"skipped": True})

    seed, seq_len = recipe.run.seed, settings.seq_len or recipe.pack.seq_len
    tokenizer = Tokenizer.load(job.inputs["tokenizer"] / "tokenizer.json")
    system = system_messages(settings.system_prompt)
    packed = job.directory / "conversations.json"
    if not follows():
        called = assistant_name(settings, recipe)
        conversations = build_conversations(settings.sources, seed, settings.validation_share, job.cache, job.progress, called)
        report: dict[str, dict[str, Any]] = {}
        for split in ("train", "validation"):
            chosen = with_system(getattr(conversations, split), system)
            report[split] = pack_conversations(chosen, tokenizer, seq_len, job.directory, split, job.progress, settings.supervise)
        write_json(packed, {"sources": conversations.sources, "splits": report})
    made = wait_for(lambda: read_json(packed), packed)
    train = ConversationRows.open(job.directory, "train")
    validation = ConversationRows.open(job.directory, "validation")
    for side in (train, validation):
        side.require_mask(tokenizer, settings.supervise)

    rows = rows_per_step(settings.global_batch_tokens, seq_len)
    steps = max(1, math.ceil(settings.epochs * train.n_rows / rows))
    model, its_own = load_model(base)
    require_same_template(tokenizer, its_own, base)
    attention = partial(choose_attention, job=job, settings=settings, config=model.config, documents=True, seq_len=seq_len)
    compute = settle_compute(job, settings, steps * settings.global_batch_tokens, model.config.n_layers, attention)
    model.compute_dtype, model.attention = compute.dtype, compute.attention
    model.neftune_alpha = settings.neftune_alpha
    model.to(compute.device)
    onlooker = Onlooker(job, model, tokenizer, compute.device, settings.eval_tokens, settings.sample_prompts, system)

    def validate() -> dict[str, float]:
        return {"val/loss": mean_loss(model, validation, compute.device, settings.eval_tokens), **onlooker.regression()}

    lr_scale = course(settings, steps)
    optim = settings.settle_optim(recipe.optim)
    kept = settings.model_copy(update={"keep_best": settings.keep_best or settings.take == "best"})
    given = (job, name, kept, optim, model, tokenizer, train, steps, compute, lr_scale, validate, onlooker.answers)
    outcome = run_training(Training(*given, optimizer=low_rank(settings, seed), best=settings.take == "best"))
    summary = {"conversations": made["splits"], "sources": made["sources"], "found": onlooker.found(), **outcome.summary}
    return Outcome(outcome.fingerprint, summary)


def _stage(name: str, before: str, section: Callable[[Recipe], SftSection]) -> Stage:
    return Stage(
        name,
        ("tokenizer", "pack", before),
        lambda job: _run(job, section(job.recipe), name, before),
        lambda recipe: _settings(section(recipe), recipe),
        lambda recipe, cache: _sources(section(recipe), cache),
        trains=True,
        version=2,  # stories' questions about one passage are one conversation
    )


def stage_after(section: PostSftSection, before: str) -> Stage:
    """A fine-tuning of `[[post]]`, which begins with the model of the stage `before`."""
    return _stage(section.name, before, lambda recipe: section)


STAGE = _stage("sft", "pretrain", lambda recipe: recipe.sft)
