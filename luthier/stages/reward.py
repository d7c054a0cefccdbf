"""Stage kind reward: pairs of answers -> a model that gives an answer a number. In: the model before. Out: checkpoints, metrics."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from luthier.config.post import RewardSection
from luthier.errors import ConfigError
from luthier.stages.dpo import pack_pairs, pair_sources
from luthier.stages.stage import Job, Outcome, Stage
from luthier.stages.tuning import prompted_settings, system_messages


def _run(job: Job, section: RewardSection, before: str) -> Outcome:
    from luthier.optim.schedule import course
    from luthier.pack.preferences import PreferenceRows
    from luthier.plan.horizon import rows_per_step
    from luthier.post.adapters import low_rank
    from luthier.post.reward import RewardObjective, held_out_rewards
    from luthier.stages.attention import choose_attention
    from luthier.stages.recorder import Training
    from luthier.stages.training import final_checkpoint, run_training, settle_compute
    from luthier.tokenizer.tokenizer import Tokenizer
    from luthier.train.checkpoint import load_model

    recipe, tokenizer = job.recipe, Tokenizer.load(job.inputs["tokenizer"] / "tokenizer.json")
    made = pack_pairs(job, section, system_messages(section.system_prompt or recipe.sft.system_prompt), tokenizer)
    train, held_out = (PreferenceRows.open(job.directory, split) for split in ("train", "validation"))
    model, _ = load_model(final_checkpoint(job.inputs[before]))
    steps = max(1, math.ceil(section.epochs * train.n_rows / rows_per_step(section.global_batch_tokens, train.seq_len)))
    attention = partial(choose_attention, job=job, settings=section, config=model.config, documents=True)
    compute = settle_compute(job, section, steps * section.global_batch_tokens, model.config.n_layers, attention)
    model.compute_dtype, model.attention = compute.dtype, compute.attention
    model.to(compute.device)
    token = tokenizer.special.end_of_text

    def validate() -> dict[str, float]:
        found = held_out_rewards(model, held_out, token, compute.device, max(1, section.eval_tokens // held_out.seq_len))
        return {f"val/{name}": value for name, value in found.items()}

    optim = section.settle_optim(recipe.optim)
    objective, optimizer = RewardObjective(token, section.centre), low_rank(section, recipe.run.seed)
    given = (job, section.name, section, optim, model, tokenizer, train, steps, compute, course(section, steps), validate)
    outcome = run_training(Training(*given, list, objective=objective, optimizer=optimizer))
    said = {"reward_sha256" if name == "weights_sha256" else name: value for name, value in outcome.summary.items()}
    return Outcome(outcome.fingerprint, {"preferences": made["splits"], "sources": made["sources"], **said})


def reward_checkpoint(path: Path) -> Path:
    """The checkpoint of a reward model: a path itself, or the last one of a stage's output.

    Raises: ConfigError when there is none, or it is of another training
    """
    from luthier.runs.manifest import read_manifest
    from luthier.train.checkpoint import MANIFEST, checkpoints

    found = path if (path / MANIFEST).is_file() else next(reversed(checkpoints(path / "checkpoints")), None)
    manifest = None if found is None else read_manifest(found / MANIFEST)
    if found is None or manifest is None or "reward" not in manifest["settings"].get("settings", {}):
        raise ConfigError(f"reward_model: {path} has no checkpoint of a reward model", fix="give the output of a stage of kind 'reward'")
    return found


def stage_after(section: RewardSection, before: str) -> Stage:
    """A reward model of `[[post]]`, which begins with the model of the stage `before`."""
    return Stage(
        section.name,
        ("tokenizer", before),
        lambda job: _run(job, section, before),
        lambda recipe: prompted_settings("reward", section, recipe),
        lambda recipe, cache: pair_sources(section, cache),
        trains=True,
        version=2,  # the answer's mask where a layout puts text behind a turn
    )
