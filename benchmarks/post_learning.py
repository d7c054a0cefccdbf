"""Sums by reinforcement, and a small model taught by a larger one. In: recipes. Out: rows for `post`.

Both recipes read a text that comes with a package, or none, so the folder of texts is not looked at.
"""

from __future__ import annotations

from pathlib import Path

from measuring import row
from post_runs import RECIPES, Row, finished, seconds_of, stage_directory, summary_of

from luthier.config.load import load_recipe, resolve_model
from luthier.config.post import DistillSection
from luthier.runs.metrics import read_metrics

MOST_MINUTES = 20
"""For everything: text, tokenizer, pretraining, fine-tuning and GRPO."""
SEEDS = (1, 2)
"""With which the comparison of teachers and students is made; a seed splits the text anew."""
SHAPE = ("d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff")


def arithmetic(data: Path, runs: Path) -> list[Row]:
    """Two-digit sums that are never trained on, before and after GRPO; the start should be between 20 and 40%."""
    run = finished(data, runs, ["arithmetic_grpo.toml"])
    summary, minutes = summary_of(run, "sums"), seconds_of(run) / 60
    before, after = (100 * summary[when][name] for when, name in (("before", "val/exact"), ("validation", "exact")))
    curve = [
        (line["step"], 100 * line["val/exact"])
        for line in read_metrics(stage_directory(run, "sums") / "metrics.jsonl")
        if "val/exact" in line
    ]
    reached = next((step for step, exact in curve if exact >= 90), None)
    found = [
        row("unseen sums right before GRPO: at least 20", "%", before, None, 20.0, before / 20, 1.0),
        row("the same: at most 40", "%", before, None, 40.0, 40 / max(before, 1.0), 1.0),
        row("unseen sums right after GRPO", "%", after, "before", before, after / 90, 1.0),
        row("step that first had 90%", "", float(reached or 0), None, None, None, None),
        row("GRPO", "min", seconds_of(run, ["sums"]) / 60, None, None, None, None),
        row("all stages", "min", minutes, None, float(MOST_MINUTES), MOST_MINUTES / minutes, 1.0),
    ]
    return found + [row(f"unseen sums right at step {step}", "%", exact, None, None, None, None) for step, exact in curve]


def distillation(data: Path, runs: Path) -> list[Row]:
    """A small model taught by a larger one, against the same small model alone on the same rows."""
    recipe = load_recipe([RECIPES / "distill.toml"])
    (section,) = (one for one in recipe.post if isinstance(one, DistillSection))
    assert section.student is not None and section.steps is not None
    shape = resolve_model(recipe.model_copy(update={"model": section.student}))
    alone = [f"model.{name}={getattr(shape, name)}" for name in SHAPE]
    alone += ["post=[]", f"pretrain.steps={section.steps}", f"optim.lr={section.lr}", 'run.name="distill_alone"']
    found: list[Row] = []
    for seed in SEEDS:
        taught = finished(data, runs, ["distill.toml"], [f"run.seed={seed}"])
        by_itself = finished(data, runs, ["distill.toml"], [f"run.seed={seed}", *alone])
        measured, other = (summary_of(run, "eval")["bits_per_byte"] for run in (taught, by_itself))
        teacher, ours, peer = (one["val_bpb"] for one in (measured["base"], measured["tuned"], other["base"]))
        seconds = [seconds_of(taught, [section.name]), seconds_of(by_itself, ["pretrain"])]
        assert summary_of(taught, section.name)["params"] == summary_of(by_itself, "pretrain")["params"]
        assert summary_of(taught, section.name)["tokens"] == summary_of(by_itself, "pretrain")["tokens"]
        found += [
            row(f"a small model, taught, seed {seed}", "bpb", ours, "alone", peer, peer / ours, 1.0),
            row(f"its teacher, seed {seed}", "bpb", teacher, None, None, None, None),
            row(f"distilling, seed {seed}", "s", seconds[0], "alone", seconds[1], None, None),
            row(f"teacher and student, all stages, seed {seed}", "min", seconds_of(taught) / 60, None, None, None, None),
        ]
    return found
