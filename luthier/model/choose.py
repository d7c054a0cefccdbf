"""Which attention is fastest here and right. In: a shape, a device. Out: milliseconds of each back end, or why it cannot. Next: stages.

A kernel that is installed may still die when it is used, or give wrong numbers: each back end is tried in a process of its own, its
results and gradients compared with the definition's, and timed only then.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor

from luthier.config.model import ModelConfig
from luthier.model.attend import AttentionMask, alibi_slopes, attend
from luthier.model.precision import DTYPES, TOLERANCE

CANDIDATES = ("sdpa", "triton", "flex")
"""What may be fastest on a GPU; of two that are as fast, the earlier is taken."""
AS_FAST = 1.05
"""A back end is as fast as the fastest when it takes no longer than so many times as long."""
CHECKED_LENGTH, TIMED_TOKENS, TIMES = 333, 16_384, 10


Pattern = tuple[int | None, bool, int]
"""What layers see: their window, whether they have ALiBi, and how many of them there are."""


@dataclass(frozen=True)
class Trial:
    """What attention is tried on: a model's heads, a row's length, the type, whether rows hold several documents, its layers' patterns."""

    heads: int
    kv_heads: int
    head_dim: int
    length: int
    precision: str
    documents: bool
    device: str
    patterns: tuple[Pattern, ...] = ((None, False, 1),)

    @classmethod
    def of(cls, config: ModelConfig, length: int, precision: str, documents: bool, device: str) -> Trial:
        """The trial that a model's training asks for; every pattern that one of its layers has is in it."""
        kinds = Counter((config.window_of(layer), config.position_of(layer) == "alibi") for layer in range(config.n_layers))
        patterns = tuple((window, alibi, count) for (window, alibi), count in kinds.items())
        return cls(config.n_heads, config.n_kv_heads, config.head_dim, length, precision, documents, device, patterns)


def try_back_end(backend: str, trial: Trial, seconds: float = 300.0, command: Sequence[str] | None = None) -> float | str:
    """Try one back end in a process of its own; return its forward and backward time, or what went wrong.

    Units: milliseconds
    """
    asked = json.dumps({"backend": backend, **asdict(trial)})
    command = command or [sys.executable, "-m", "luthier.model.choose", asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"it took more than {seconds:.0f} s"
    except OSError as error:
        return f"it could not be started: {error}"
    if done.returncode == 0:
        return float(done.stdout.split()[-1])
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"it died of signal {-done.returncode}" if done.returncode < 0 else last[:300]


def fastest(tried: Mapping[str, float | str]) -> str | None:
    """The first of the back ends that are about as fast as the fastest; `None` when none works."""
    times = {name: found for name, found in tried.items() if not isinstance(found, str)}
    return next((name for name, found in times.items() if found <= AS_FAST * min(times.values())), None)


def draw(trial: Trial, rows: int, length: int) -> tuple[list[Tensor], list[AttentionMask]]:
    """Random queries, keys, values and the result's gradient, and a mask for each of the patterns.

    Shapes: four of (rows, heads, length, head_dim), keys and values with their own number of heads
    """
    chance = torch.Generator().manual_seed(1)
    dtype = DTYPES[trial.precision]
    heads = (trial.heads, trial.kv_heads, trial.kv_heads, trial.heads)
    drawn = [torch.randn(rows, length, h, trial.head_dim, generator=chance).transpose(1, 2).to(trial.device, dtype) for h in heads]
    doc_ids = (torch.rand(rows, length, generator=chance) < 4 / length).long().cumsum(1).to(trial.device)
    slopes = alibi_slopes(trial.heads).to(trial.device)
    patterns = [(window, slopes if alibi else None) for window, alibi, _ in trial.patterns]
    return drawn, [AttentionMask(window, bias, doc_ids if trial.documents else None) for window, bias in patterns]


def step(inputs: Sequence[Tensor], mask: AttentionMask, backend: str) -> list[Tensor]:
    """One forward and backward pass: the result and the gradients of queries, keys and values."""
    q, k, v = (x.detach().requires_grad_() for x in inputs[:3])
    out = attend(q, k, v, mask, backend)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), inputs[3])]


def largest_difference(backend: str, trial: Trial) -> float:
    """How far a back end is from the definition in fp32, as a share of the largest value; not a number where it gave none."""
    length = min(trial.length, CHECKED_LENGTH)
    patterns = tuple((window and min(window, length // 3), *rest) for window, *rest in trial.patterns)  # so that a window hides something
    inputs, masks = draw(replace(trial, patterns=patterns), 2, length)
    differences: list[Tensor] = []
    for mask in masks:
        right = step([x.float() for x in inputs], mask, "naive")
        found = step(inputs, mask, backend)
        differences += [(a.float() - b).abs().max() / b.abs().max() for a, b in zip(found, right, strict=True)]
    return torch.stack(differences).max().item()


def time_of_a_layer(backend: str, trial: Trial) -> float:
    """What forward and backward take in the mean of the layers. Units: milliseconds"""
    inputs, masks = draw(trial, max(1, TIMED_TOKENS // trial.length), trial.length)
    counts = [count for _, _, count in trial.patterns]
    taken = [milliseconds(partial(step, inputs, mask, backend), trial.device) for mask in masks]
    return sum(count * each for count, each in zip(counts, taken, strict=True)) / sum(counts)


def milliseconds(work: Callable[[], object], device: str, times: int = TIMES) -> float:
    """The median time of a piece of work that follows itself, so that a GPU need not wait for its next kernel; after a warm-up."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    in_a_row, taken = 5 if device == "cuda" else 1, list[float]()
    for _ in range(3 + times):
        wait()
        begin = time.perf_counter()
        for _ in range(in_a_row):
            work()
        wait()
        taken.append(1e3 * (time.perf_counter() - begin) / in_a_row)
    return statistics.median(taken[3:])


def _main(asked: str) -> None:
    fields = json.loads(asked)
    backend, trial = fields.pop("backend"), Trial(**fields)
    difference = largest_difference(backend, trial)
    if not difference <= TOLERANCE[trial.precision]:
        sys.exit(f"its results differ from the definition by {difference:.2g} of the largest, {TOLERANCE[trial.precision]:g} is allowed")
    sys.stdout.write(f"{time_of_a_layer(backend, trial)}\n")


if __name__ == "__main__":
    _main(sys.argv[1])
