"""Stage kind dpo: pairs of answers -> a model that prefers as they do. In: the model before. Out: checkpoints, metrics, samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config.post import DpoSection, PairsSection
from luthier.runs.files import read_json, write_json
from luthier.stages.stage import Job, Outcome, Stage, follows, wait_for
from luthier.stages.tuning import fingerprints, prompted_settings, system_messages
from luthier.tasks.conversation import Message

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.model.decoder import Decoder
    from luthier.pack.preferences import PreferenceRows
    from luthier.tokenizer.tokenizer import Tokenizer


def pair_sources(section: PairsSection, cache: Path) -> dict[str, str]:
    """What a stage's pairs are known by."""
    return fingerprints(enumerate(section.sources), cache)


def pack_pairs(job: Job, section: PairsSection, system: Sequence[Message], tokenizer: Tokenizer) -> dict[str, Any]:
    """Read and pack the pairs, on the leading rank; the same ones give the same files."""
    from luthier.pack.preferences import pack_preferences
    from luthier.tasks.preferences import build_preferences

    path, longest = job.directory / "preferences.json", job.recipe.pack.seq_len
    if not follows():
        found = build_preferences(section.sources, job.recipe.run.seed, section.validation_share, job.cache, job.progress)
        seq_len = section.seq_len or 2 * longest
        packed = {
            split: pack_preferences(pairs, system, tokenizer, longest, seq_len, job.directory, split, job.progress)
            for split, pairs in (("train", found.train), ("validation", found.validation))
        }
        write_json(path, {"sources": found.sources, "splits": packed})
    return wait_for(lambda: read_json(path), path)


def _reference(job: Job, section: DpoSection, model: Decoder, device: str, rows: PreferenceRows, split: str) -> Tensor:
    """Log-probabilities of all pairs by the model before; computed once and read from then on. Shapes: (pairs, 2)"""
    import torch

    from luthier.pack.checksums import damaged, manifest_of_version, map_array, verify_files, write_array
    from luthier.post.preference import pair_logprobs
    from luthier.runs.manifest import read_manifest, write_manifest

    if not section.needs_reference:
        return torch.zeros(rows.n_pairs, 2)
    path = job.directory / f"{split}-reference.json"
    known = read_manifest(path) or {}
    whole = known.get("rows") == rows.fingerprint and damaged(job.directory, known["file"]) is None
    if not follows() and not whole:
        job.progress.say(f"{section.name}: the reference looks at {rows.n_pairs:,} {split} pairs; this is done once")
        _, logprobs, _ = pair_logprobs(model, rows, device, exact=split == "validation")
        record = write_array(job.directory / f"{split}-reference.npy", logprobs.numpy())
        write_manifest(path, {"version": 1, "rows": rows.fingerprint, "file": record})
    wait_for(lambda: read_manifest(path), path)
    manifest = manifest_of_version(path, 1)
    verify_files(job.directory, [manifest["file"]])
    return torch.from_numpy(map_array(job.directory, manifest["file"]).copy())


def _run(job: Job, section: DpoSection, before: str) -> Outcome:
    from luthier.optim.schedule import course
    from luthier.pack.preferences import PreferenceRows
    from luthier.plan.horizon import rows_per_step
    from luthier.post.adapters import low_rank
    from luthier.post.distill import mean_divergence
    from luthier.post.preference import Pairs, PreferenceObjective, figures, pair_logprobs
    from luthier.stages.attention import choose_attention
    from luthier.stages.before import Onlooker
    from luthier.stages.recorder import Training
    from luthier.stages.training import final_checkpoint, run_training, settle_compute
    from luthier.tokenizer.tokenizer import Tokenizer
    from luthier.train.checkpoint import load_model

    recipe, base = job.recipe, final_checkpoint(job.inputs[before])
    tokenizer = Tokenizer.load(job.inputs["tokenizer"] / "tokenizer.json")
    system = system_messages(section.system_prompt or recipe.sft.system_prompt)
    made = pack_pairs(job, section, system, tokenizer)
    train, held_out = (PreferenceRows.open(job.directory, split) for split in ("train", "validation"))

    model, _ = load_model(base)
    steps = max(1, math.ceil(section.epochs * train.n_rows / rows_per_step(section.global_batch_tokens, train.seq_len)))
    attention = partial(choose_attention, job=job, settings=section, config=model.config, documents=True)
    compute = settle_compute(job, section, steps * section.global_batch_tokens, model.config.n_layers, attention)
    device = compute.device
    reference, _ = load_model(base, device)  # the model before, for comparison
    for one in (model, reference):
        one.compute_dtype, one.attention = compute.dtype, compute.attention
        one.to(device)
    known = {
        split: _reference(job, section, reference, device, rows, split) for split, rows in (("train", train), ("validation", held_out))
    }
    onlooker = Onlooker(job, model, tokenizer, device, section.eval_tokens, section.sample_prompts, system)

    def validate() -> dict[str, float]:
        n_rows = max(1, section.eval_tokens // held_out.seq_len)
        numbers, logprobs, tokens = pair_logprobs(model, held_out, device, n_rows, exact=True)
        found = figures(Pairs(logprobs, known["validation"][numbers], tokens), section)
        found["kl"] = mean_divergence(model, reference, held_out, device, section.eval_tokens)
        return {**{f"val/{name}": value for name, value in found.items()}, **onlooker.regression()}

    optim = section.settle_optim(recipe.optim)
    objective = PreferenceObjective(section, known["train"].to(device), model.config.logit_softcap)
    given = (job, section.name, section, optim, model, tokenizer, train, steps, compute, course(section, steps), validate)
    outcome = run_training(Training(*given, onlooker.answers, objective=objective, optimizer=low_rank(section, recipe.run.seed)))
    summary = {"preferences": made["splits"], "sources": made["sources"], "found": onlooker.found(), **outcome.summary}
    return Outcome(outcome.fingerprint, summary)


def stage_after(section: DpoSection, before: str) -> Stage:
    """Training on pairs of `[[post]]`, which begins with the model of the stage `before`."""
    return Stage(
        section.name,
        ("tokenizer", "pack", before),
        lambda job: _run(job, section, before),
        lambda recipe: prompted_settings("dpo", section, recipe),
        lambda recipe, cache: pair_sources(section, cache),
        trains=True,
        version=2,  # the answer's mask where a layout puts text behind a turn
    )
