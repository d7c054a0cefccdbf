"""What each switch of the modern recipe gains in the same time: a small model with it and without, on the same text.

    python benchmarks/ablations.py --text FOLDER [--only NAME ...] [--steps 500] [--seeds 1 2] [--json]

FOLDER holds the files of `STORIES`. The base is 4 layers of 192 (2.4M parameters, Muon, linear decay). First a step with the switch
and a step without take turns; then each variant is trained, by the pipeline, for as many steps as the base would have had time for. The
result is the validation loss in bits per byte. Seeds change the initial weights, the order and the split, so a variant is compared with
the base of its own seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from measuring import cache_folder, row, show
from training_racers import racing, take_turns, warm_up
from training_races import STORIES

from luthier.config.load import load_recipe
from luthier.config.schema import Recipe
from luthier.runs.progress import Progress, progress_for
from luthier.stages.pipeline import run_recipe

TOKENS_PER_STEP = 2048
BASE = (
    "tokenizer.vocab_size=4096", "pack.seq_len=256", "run.name=ablation",
    "model.d_model=192", "model.n_layers=4", "model.n_heads=6", "model.n_kv_heads=2", "model.d_ff=512",
    "optim.name=muon", "optim.lr=8e-3", "optim.muon_lr=0.01", "optim.schedule=linear", "optim.warmup_steps=20", "optim.min_lr_ratio=0",
    f"pretrain.global_batch_tokens={TOKENS_PER_STEP}", "pretrain.document_mask=true", "pretrain.compile=on", "pretrain.sample_prompts=[]",
    "pretrain.eval_every=1000000", "pretrain.eval_tokens=1000000",
)  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "QK-norm": ("model.qk_norm=true",),
    "ReLU squared": ("model.mlp=relu2", "model.d_ff=768"),
    "residual scalars": ("model.residual_scalars=true",),
    "key offset": ("model.key_offset=true",),
    "value embeddings": ("model.value_embeddings=true",),
    "soft cap of 15": ("model.logit_softcap=15",),
    "untied head": ("model.tie_embeddings=false",),
    "best-fit rows": ("pack.rows=best_fit",),
    "AdamW alone": ("optim.name=adamw", "optim.lr=3e-3"),
    "Polar Express": ("optim.muon_polynomial=polar_express",),
    "cosine": ("optim.schedule=cosine",),
    "WSD": ("optim.schedule=wsd",),
    "z-loss": ("pretrain.z_loss=1e-4",),
    "no decay of embeddings": ("optim.decay_embeddings=false",),
    "batch grows": ("pretrain.batch_warmup_start=1024", "pretrain.batch_warmup_tokens=200000"),
}
"""A name, and what it changes in the base."""


def recipe_of(folder: Path, changes: Sequence[str], steps: int, seed: int) -> Recipe:
    """The base with some changes, for so many steps of its own."""
    paths = [folder / f"{name}.jsonl.zst" for name in STORIES]
    given = (
        f"data.sources={json.dumps([str(path) for path in paths if path.exists()])}",
        f"runs.root={json.dumps(str(cache_folder() / 'ablations'))}",
        f"pretrain.tokens={steps * TOKENS_PER_STEP}",
        f"run.seed={seed}",
    )
    return load_recipe([], [*BASE, *given, *changes])


def costs(folder: Path, names: Sequence[str], progress: Progress) -> Generator[tuple[str, float], None, None]:
    """For each variant, how long its step takes, in steps of the base that it took turns with."""

    def entry(changes: Sequence[str]) -> tuple[str, dict[str, Any]]:
        recipe = recipe_of(folder, changes, 1000, 1).model_dump(mode="json", exclude={"runs", "data"}, exclude_none=True)
        return "ours", {"recipe": recipe}

    with racing([entry(())]) as (base,):
        for name in names:
            with racing([entry(VARIANTS[name])]) as (changed,):
                base.who, changed.who = "base", name
                failed = warm_up([base, changed], progress)
                if failed:
                    raise SystemExit(str(failed))
                seconds = take_turns([base, changed], 6, 8)
            yield name, seconds[name] / seconds["base"]


def bits_per_byte(recipe: Recipe, progress: Progress) -> float:
    """Train and validate; a result that is there is found again."""
    _, stages = run_recipe(recipe, progress, until="pretrain")
    return float(stages[-1].summary["validation"]["bpb"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a folder of .jsonl.zst")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=500, help="steps of the base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    progress = progress_for()
    base = {seed: bits_per_byte(recipe_of(arguments.text, (), arguments.steps, seed), progress) for seed in arguments.seeds}
    lines: list[dict[str, Any]] = []
    for name, ratio in costs(arguments.text, arguments.only, progress):
        steps = max(1, round(arguments.steps / ratio))
        reached = {seed: bits_per_byte(recipe_of(arguments.text, VARIANTS[name], steps, seed), progress) for seed in arguments.seeds}
        gains = [reached[seed] - base[seed] for seed in arguments.seeds]
        progress.say(f"{name}: a step takes {ratio:.3f}, {steps} steps, {', '.join(f'{gain:+.4f}' for gain in gains)} bits per byte")
        mine, theirs = statistics.mean(reached.values()), statistics.mean(base.values())
        lines.append(row(f"{name}: a step takes {ratio:.2f}, {steps} steps", "bpb", mine, "base", theirs, theirs / mine, None))
    show(lines, arguments.json)


if __name__ == "__main__":
    main()
