"""Time to a given loss: ours against the peers' own settings, on the same text and the same validation tokens. In: text. Out: rows.

Only training is on the clock: not the validation, which is the same for all; in the race on stories not the first step either, which
compiles. All losses are over the same tokens in the same rows.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import ROOT, read_documents, row
from training_racers import Racer, racing

from luthier.config.data import SourceConfig
from luthier.config.load import load_recipe
from luthier.config.tokenization import TokenizerSection
from luthier.runs.progress import Progress
from luthier.tokenizer.train import train_tokenizer

STORIES = ("tinystories", "children_books", "storyweaver", "african_storybook", "fairytales")
SHAKESPEARE_RECIPE = ROOT.parent / "recipes" / "shakespeare_char.toml"
NANOGPT = {
    "d_model": 128, "n_layers": 4, "n_heads": 4, "d_ff": 342, "hidden": 512, "seq_len": 64, "rows": 12, "steps": 2000,
    "compiled": False, "bf16": False, "beta2": 0.99,
}  # fmt: skip
"""nanoGPT's README, "I only have a macbook": 1e-3 to 1e-4 by cosine, 100 steps of warm-up, no dropout, fp32, not compiled."""
NANOGPT_LOSS = 1.88
VOCABULARY, SEQ_LEN, ROWS = 8192, 256, 16
TEN_MILLION = {"d_model": 256, "n_layers": 8, "n_heads": 4, "d_ff": 960, "vocab_size": VOCABULARY}
OUR_STORIES: dict[str, Any] = {
    "tokenizer": {"vocab_size": VOCABULARY},
    "model": {**TEN_MILLION, "residual_scalars": True},
    "pack": {"seq_len": SEQ_LEN},
    "optim": {"name": "muon", "lr": 8e-3, "muon_lr": 0.01, "schedule": "linear", "warmup_steps": 20, "min_lr_ratio": 0.0},
}
GOAL_SHAKESPEARE, GOAL_STORIES = 3.0, 1 / 0.6
EVALUATED = 65_536
"""Validation tokens of every loss."""


def shakespeare(folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """nanoGPT's published CPU run against our recipe: the time until the loss that its settings promise."""
    text = "\n".join(_documents([folder / "shakespeare.jsonl.zst"]))
    characters = sorted(set(text))
    index = {character: i for i, character in enumerate(characters)}
    ids = np.array([index[character] for character in text], np.uint16)
    border = round(0.9 * len(ids))
    recipe = load_recipe([SHAKESPEARE_RECIPE]).model_dump(mode="json", exclude_none=True)
    ours_steps = recipe["pretrain"]["steps"]
    with tempfile.TemporaryDirectory() as temporary:
        np.save(Path(temporary) / "train.npy", ids[:border])
        np.save(Path(temporary) / "validation.npy", ids[border:])
        given = {"vocab_size": len(characters), "folder": temporary}
        with racing([("nanoGPT", {**NANOGPT, **given}), ("ours", {"recipe": recipe, **given})]) as (theirs, ours):
            their_curve, our_curve = Curve("nanoGPT", theirs), Curve("ours", ours)
            for part in range(20):  # in turn, so that what slows the machine slows both
                their_curve.go_on(2000 // 20, progress)
                our_curve.go_on(ours_steps * (part + 1) // 20 - our_curve.steps, progress)
    target = max(NANOGPT_LOSS, their_curve.last)
    their_time, our_time = their_curve.time_to(target), our_curve.time_to(target)
    name = f"Shakespeare by characters: time to validation loss {target:.2f}"
    assert their_time is not None, "the target is a loss it reached"
    ratio = their_time / our_time if our_time else 0.0
    lines = [row(name, "s", our_time or our_curve.seconds, "nanoGPT, re-written", their_time, ratio, GOAL_SHAKESPEARE)]
    lines.append(row("Shakespeare by characters: loss in the end", "nats", our_curve.last, "nanoGPT", their_curve.last, None, None))
    return lines


def stories(folder: Path, budget: float, progress: Progress) -> list[dict[str, Any]]:
    """10M parameters on stories: each peer's recipe for `budget` seconds, ours laid out for 60% of it."""
    with tempfile.TemporaryDirectory() as temporary:
        bits = _pack(folder, Path(temporary), progress)
        curves: dict[str, Curve] = {}
        for who in ("litgpt", "nanochat", "ours"):
            seconds = budget * (0.6 if who == "ours" else 1.0)
            per_step = _step_seconds(who, temporary)
            steps = max(4, round(seconds / per_step))
            progress.say(f"stories: {who}, {steps} steps of {per_step:.2f} s")
            with racing([(who, _settings(who, temporary, steps + 1))]) as (racer,):
                racer.ask(steps=1)
                curves[who] = Curve(who, racer)
                for part in range(10):
                    curves[who].go_on(steps * (part + 1) // 10 - curves[who].steps, progress)
    ours = curves.pop("ours")
    best = min(curves.values(), key=lambda curve: curve.last)
    reached = ours.time_to(best.last)
    ratio = best.seconds / reached if reached else 0.0
    name = f"stories, 10M, {budget:.0f} s a peer: time to {best.last * bits:.3f} bits per byte"
    lines = [row(name, "s", reached or ours.seconds, f"{best.who}, its recipe", best.seconds, ratio, GOAL_STORIES)]
    for curve in curves.values():
        other = f"{curve.who} after {curve.seconds:.0f} s"
        lines.append(row(f"stories, 10M: ours after {ours.seconds:.0f} s", "bpb", ours.last * bits, other, curve.last * bits, None, None))
    return lines


@dataclass
class Curve:
    """Losses of one racer over its training time."""

    who: str
    racer: Racer
    seconds: float = 0.0
    steps: int = 0

    def __post_init__(self) -> None:
        self.points: list[tuple[float, float]] = []

    def go_on(self, steps: int, progress: Progress) -> None:
        """Train on and validate."""
        self.seconds += sum(self.racer.ask(steps=steps)["seconds"])
        self.steps += steps
        self.points.append((self.seconds, self.racer.ask(loss=EVALUATED)["loss"]))
        progress.say(f"  {self.who}: step {self.steps}, {self.seconds:.1f} s, loss {self.last:.4f}")

    @property
    def last(self) -> float:
        return self.points[-1][1]

    def time_to(self, loss: float) -> float | None:
        """Training time at the first validation that is as good. Units: seconds"""
        return next((seconds for seconds, reached in self.points if reached <= loss), None)


def _settings(who: str, folder: str, steps: int) -> dict[str, Any]:
    if who == "ours":
        return {
            "folder": folder,
            "vocab_size": VOCABULARY,
            "recipe": {**OUR_STORIES, "pretrain": {"steps": steps, "global_batch_tokens": ROWS * SEQ_LEN, "compile": "on"}},
        }
    return {**TEN_MILLION, "folder": folder, "seq_len": SEQ_LEN, "rows": ROWS, "steps": steps, "compiled": True, "bf16": True}


def _step_seconds(who: str, folder: str) -> float:
    with racing([(who, _settings(who, folder, 1000))]) as (racer,):
        return statistics.median(racer.ask(steps=7)["seconds"][2:])


def _documents(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        if path.exists():
            yield from read_documents(SourceConfig(kind="files", path=str(path)))


def _pack(folder: Path, to: Path, progress: Progress) -> float:
    """Train a tokenizer, encode, hold out every 40th document; return the bits per byte that a nat per token is."""
    documents = list(_documents([folder / f"{name}.jsonl.zst" for name in STORIES]))
    random.Random(1).shuffle(documents)
    tokenizer = train_tokenizer(documents, TokenizerSection(vocab_size=VOCABULARY), progress, sum(map(len, documents)))
    end = tokenizer.special.end_of_text
    held = [i % 40 == 0 for i in range(len(documents))]
    for name, wanted in (("train", False), ("validation", True)):
        ids = [[*tokenizer.encode(text), end] for text, is_held in zip(documents, held, strict=True) if is_held is wanted]
        np.save(to / f"{name}.npy", np.fromiter((i for part in ids for i in part), np.uint16))
    counted = np.load(to / "validation.npy")[1 : EVALUATED + 1]
    return len(counted) / (float(np.asarray(tokenizer.byte_lengths)[counted].sum()) * math.log(2))
