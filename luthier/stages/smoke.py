"""What a smoke run has to show. In: a finished run of a recipe made tiny. Out: checks, each with what was found. Called by run."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from luthier.config.post import GrpoSection, PairsSection
from luthier.config.sampling import SamplingSection
from luthier.config.schema import Recipe
from luthier.runs.directory import RunDirectory
from luthier.runs.metrics import read_metrics
from luthier.stages.order import model_stages, training_stages

_PROMPT, _GREEDY_TOKENS, _LAST_STEPS = "The ", 12, 8


class Check(NamedTuple):
    """Something that a smoke run has to show, whether it did, and what was found."""

    name: str
    good: bool
    found: str


def check_smoke(run: RunDirectory, recipe: Recipe, summary: dict[str, Any]) -> list[Check]:
    """Every training's loss fell, the model speaks, and it is exported."""
    trained = [name for name in training_stages(recipe) if name != "sft" or recipe.sft.sources]
    return [*(_learned(run, recipe, name) for name in trained), _speaks(run, recipe, summary), _exported(summary)]


def _learned(run: RunDirectory, recipe: Recipe, name: str) -> Check:
    """The first step's loss against that on what is held out; pairs may be learned by heart, and rewards need not rise in so few steps."""
    directory = run.stage(name)
    rows = read_metrics(directory / "metrics.jsonl") if directory else []
    section = next((section for section in recipe.post if section.name == name), None)
    if isinstance(section, GrpoSection):
        rewards = [row["post/reward"] for row in rows if "post/reward" in row]
        done = bool(rewards) and all(math.isfinite(reward) for reward in rewards)
        return Check(name, done, f"reward {rewards[0]:.3f} -> {rewards[-1]:.3f} in {len(rewards)} steps" if done else "no finite reward")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    held_out = [row["val/loss"] for row in rows if "val/loss" in row]
    by_heart = isinstance(section, PairsSection)
    if not losses or not held_out or (by_heart and len(losses) <= _LAST_STEPS):
        return Check(name, False, f"{len(losses)} losses were measured, and {len(held_out)} on what is held out")
    last = statistics.fmean(losses[-_LAST_STEPS:]) if by_heart else held_out[-1]
    return Check(
        name, math.isfinite(last) and last < losses[0], f"loss {losses[0]:.4f} -> {last:.4f} {'' if by_heart else 'held out'}".strip()
    )


def _speaks(run: RunDirectory, recipe: Recipe, summary: dict[str, Any]) -> Check:
    """Answers were given, and greedy tokens with the cache are those without it."""
    import torch

    from luthier.generate.engine import Engine
    from luthier.stages.training import final_checkpoint
    from luthier.train.checkpoint import load_model

    name = model_stages(recipe)[-1]
    directory = run.stage(name)
    assert directory is not None, "the run is finished"
    model, tokenizer = load_model(final_checkpoint(directory))
    ids = [tokenizer.special.end_of_text, *tokenizer.encode(_PROMPT)]
    greedy = SamplingSection(temperature=0, repetition_penalty=1.0, max_new_tokens=_GREEDY_TOKENS)
    cached = Engine(model, "cpu", None, model.config.max_seq_len).generate(ids, greedy, stop_ids=frozenset(), seed=recipe.run.seed).ids
    plain = list(ids)
    with torch.inference_mode():
        for _ in range(_GREEDY_TOKENS):
            plain.append(int(model.logits(model(torch.tensor([plain])))[0, -1].argmax()))
    answers = [given["answer"] for entry in summary["answers"] for given in entry.values() if isinstance(given, dict)]
    same, spoken = list(cached) == plain[len(ids) :], any(answer.strip() for answer in answers)
    found = f"{len(answers)} answers; greedy tokens {'the same' if same else 'not the same'} with the KV cache as without"
    return Check("sampler", same and spoken, found if spoken else "no answer has any text")


def _exported(summary: dict[str, Any]) -> Check:
    folder, parity = summary["export"], summary["parity"] or {}
    if folder is not None:
        whole = all((Path(folder) / file).is_file() for file in ("config.json", "tokenizer.json")) and any(
            Path(folder).glob("*.safetensors")
        )
        proven = "same greedy tokens in transformers" if parity.get("checked") else parity.get("reason", "")
        return Check("export", whole, f"{folder} ({proven})")
    return Check("export", False, str(parity.get("reason", "missing")))
