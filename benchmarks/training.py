"""Training speed on this machine: tokens per second and time to a given loss, ours against the peers, taking turns in one run.

    python benchmarks/training.py [--only 256 1024 shakespeare stories] [--text FOLDER] [--budget 90] [--all-modes] [--json]

Tokens per second: LLM Maker A's dimensions (10.1M parameters, vocabulary 8,192), forward, backward, clipping, optimizer; each process warms
up, then takes steps in turn with ours; medians. Peers: litgpt and `transformers` of PyPI; nanoGPT and nanochat re-written from what they
publish (see training_peers.py), their MLP so wide that the blocks have as many weights as ours. Measured are compiled bf16, the fastest
mode of each peer wherever this was run, and its own default; with --all-modes all four modes of each, in three times the time. The share
of the machine's rate is given twice: against a square product of 1,024, and against the time that the model's own products take alone,
which is the goal's.

Time to loss (training_races.py): nanoGPT's Shakespeare by characters, and a 10M model on stories, both from FOLDER
(`shakespeare.jsonl.zst` and the files of `STORIES`); skipped without it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from measuring import row, show
from training_peers import CPU_DEFAULTS
from training_racers import REWRITTEN, racing, take_turns, warm_up
from training_races import shakespeare, stories

from luthier.config.load import resolve_model
from luthier.config.schema import Recipe
from luthier.plan.compute import training_flops_per_token
from luthier.runs.memory import keep_freed_memory
from luthier.runs.progress import Progress, progress_for
from luthier.train.device import measure_matmul

SHAPES = {"256": (256, 16), "1024": (1024, 4)}
DIMENSIONS = {"d_model": 256, "n_layers": 8, "n_heads": 4, "d_ff": 960, "vocab_size": 8192}
MODES = {(False, False): "fp32", (True, False): "compiled fp32", (False, True): "bf16", (True, True): "compiled bf16"}
GOAL_BEST, GOAL_DEFAULT, GOAL_SHARE = 1.5, 3.0, 0.5


def our_recipe(seq_len: int, rows: int) -> dict[str, Any]:
    """LLM Maker A with everything else as it is by default; long enough that `auto` compiles."""
    return {
        "tokenizer": {"vocab_size": DIMENSIONS["vocab_size"]},
        "model": DIMENSIONS,
        "pack": {"seq_len": seq_len},
        "pretrain": {"steps": 20_000, "global_batch_tokens": seq_len * rows},
    }


def tokens_per_second(seq_len: int, rows: int, all_modes: bool, turns: tuple[int, int], progress: Progress) -> list[dict[str, Any]]:
    """All modes, one after the other; in each, ours and the peers take turns."""
    found: dict[tuple[str, tuple[bool, bool]], tuple[float, float]] = {}
    failures: list[dict[str, Any]] = []
    ours_alone: list[float] = []
    with racing([("ours", {"recipe": our_recipe(seq_len, rows)})]) as (ours,):
        warm_up([ours], progress)
        for mode in MODES:
            names = [who for who, own in CPU_DEFAULTS.items() if all_modes or mode == (True, True) or own == mode]
            task = {**DIMENSIONS, "seq_len": seq_len, "rows": rows, "steps": 1000, "compiled": mode[0], "bf16": mode[1]}
            progress.say(f"{seq_len} x {rows}, {MODES[mode]}")
            with racing([(who, task) for who in names]) as racers:
                failed = warm_up(racers, progress)
                failures += [_failure(f"{seq_len} x {rows}, {MODES[mode]}: {why}", who) for who, why in failed.items()]
                seconds = take_turns([ours, *(racer for racer in racers if racer.who not in failed)], *turns)
            ours_alone.append(mine := seconds.pop("ours"))
            for who, theirs in seconds.items():
                found[who, mode] = (seq_len * rows / mine, seq_len * rows / theirs)
                progress.say(f"  {who}: {seq_len * rows / theirs:,.0f} tokens/s, ours {theirs / mine:.2f} times as many")
    lines = _compared(f"{seq_len} x {rows}", found) + failures
    return lines + shares(seq_len, rows, statistics.median(ours_alone))


def _compared(name: str, found: dict[tuple[str, tuple[bool, bool]], tuple[float, float]]) -> list[dict[str, Any]]:
    """Every mode; with goals, the fastest of all and each peer's own default."""
    fastest = max(found, key=lambda key: found[key][1] / found[key][0])
    lines = [_line(f"{name}: the fastest peer", fastest, found[fastest], GOAL_BEST)]
    lines += [
        _line(f"{name}: its own CPU default", key, pair, GOAL_DEFAULT) for key, pair in found.items() if CPU_DEFAULTS[key[0]] == key[1]
    ]
    for who in CPU_DEFAULTS:
        mine = [key for key in found if key[0] == who]
        best = max(mine, key=lambda key: found[key][1] / found[key][0], default=None)
        lines += [_line(f"{name}: {'its best mode' if key == best else 'mode'}", key, found[key], None) for key in mine]
    return lines


def _line(name: str, key: tuple[str, tuple[bool, bool]], pair: tuple[float, float], goal: float | None) -> dict[str, Any]:
    who = f"{key[0]}{', re-written' if key[0] in REWRITTEN else ''}, {MODES[key[1]]}"
    return row(name, "tok/s", pair[0], who, pair[1], pair[0] / pair[1], goal)


def _failure(name: str, who: str) -> dict[str, Any]:
    return row(name, "failed", 0.0, who, 0.0, None, None)


def shares(seq_len: int, rows: int, seconds: float) -> list[dict[str, Any]]:
    """What share of the machine's bf16 rate our step reaches, by both definitions."""
    keep_freed_memory()
    config = resolve_model(Recipe.model_validate(our_recipe(seq_len, rows)))
    tokens, name = seq_len * rows, f"{seq_len} x {rows}: share of the bf16 rate"
    square = measure_matmul("cpu", torch.bfloat16)
    of_square = training_flops_per_token(config, seq_len) * tokens / seconds / square
    d, f, layers = config.d_model, config.d_ff, config.n_layers
    products = [(tokens, d, d, 4 * layers), (tokens, d, f, 2 * layers), (tokens, f, d, layers), (tokens, d, config.vocab_size, 1)]
    alone = 0.0
    for n, inside, outside, count in products:
        forward, to_input, to_weight = ((n, inside), (inside, outside)), ((n, outside), (outside, inside)), ((outside, n), (n, inside))
        alone += count * sum(_product(a, b) for a, b in (forward, to_input, to_weight))
    heads, width = rows * config.n_heads, config.head_dim
    scores = _product((heads, seq_len, width), (heads, width, seq_len))  # q k^T; the whole square, half of which is visible
    values = _product((heads, seq_len, seq_len), (heads, seq_len, width))
    alone += layers * 3 * (scores + values) / 2
    return [
        row(f"{name}, square of 1,024", "share", of_square, "GFLOP/s", square / 1e9, None, None),
        row(f"{name}, its own products", "share", alone / seconds, "ms alone", alone * 1e3, alone / seconds, GOAL_SHARE),
    ]


def _product(a: tuple[int, ...], b: tuple[int, ...], least: float = 0.15) -> float:
    """Median time of a bf16 product. Units: seconds"""
    left, right = torch.randn(a).bfloat16(), torch.randn(b).bfloat16()
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < least or len(times) < 5:
        started = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SHAPES, "shakespeare", "stories"], help="parts to measure; default: all")
    parser.add_argument("--text", type=Path, help="a folder of .jsonl.zst with the races' text")
    parser.add_argument("--budget", type=float, default=90.0, help="seconds each peer trains on stories")
    parser.add_argument("--all-modes", action="store_true")
    parser.add_argument("--turns", nargs=2, type=int, default=(2, 4), metavar=("ROUNDS", "STEPS"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    progress = progress_for()
    lines: list[dict[str, Any]] = []
    for part in arguments.only or [*SHAPES, "shakespeare", "stories"]:
        if part in SHAPES:
            lines += tokens_per_second(*SHAPES[part], arguments.all_modes, tuple(arguments.turns), progress)
        elif arguments.text is None:
            progress.say(f"{part}: skipped, no --text")
        else:
            lines += shakespeare(arguments.text, progress) if part == "shakespeare" else stories(arguments.text, arguments.budget, progress)
    show(lines, arguments.json)


if __name__ == "__main__":
    main()
