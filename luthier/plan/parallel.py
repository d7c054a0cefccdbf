"""Several processes, and keeping less. In: bytes by part of one process. Out: those of a rank, what it sends, what fits. Next: report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from luthier.config.model import ModelConfig
from luthier.config.training import TrainingSection
from luthier.plan.horizon import micro_batch_rows
from luthier.plan.memory import BF16, FP32
from luthier.plan.parameters import count

Way = Literal["one", "ddp", "fsdp"]
WAYS: tuple[Way, ...] = ("one", "ddp", "fsdp")
CHECKPOINTING = ("off", "selective", "blocks")
BUCKET_BYTES = 25 * 2**20
"""Gradients that several processes add up at one time; as in training."""
_SHARED_OUT = frozenset({"weights", "gradients", "optimizer", "checkpoint copy"})


def rank_bytes(parts: Mapping[str, int], config: ModelConfig, ranks: int, way: Way, precision: str) -> dict[str, int]:
    """Bytes by part of one of `ranks` processes, each with the micro-batch that `parts` are for.

    `ddp`: every rank has all, and a flat bucket of gradients that are being added up. `fsdp`: weights, gradients and optimizer are shared
    out; of the largest unit (a block, or embedding and head) two copies are gathered in the compute type, the one in use and the next, and
    one of gradients in fp32 is about to be scattered.
    Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5.3; Zhao et al. 2023, arXiv:2304.11277, section 3.
    """
    if way == "one" or ranks == 1:
        return dict(parts)
    if way == "ddp":
        return {**parts, "buckets": min(parts["gradients"], max(BUCKET_BYTES, FP32 * _largest_parameter(config)))}
    item = FP32 if precision == "fp32" else BF16
    rank = {name: -(-size // ranks) if name in _SHARED_OUT else size for name, size in parts.items() if name != "weights, cast"}
    return {**rank, "gathered": (2 * item + FP32) * _largest_unit(config)}


def _largest_parameter(config: ModelConfig) -> int:
    return config.d_model * max(config.vocab_size, config.d_ff, config.n_heads * config.head_dim)


def _largest_unit(config: ModelConfig) -> int:
    parts = count(config)
    blocks = sum(parts[name] for name in ("attention", "mlp", "biases", "norms", "residual scalars"))
    return max(-(-blocks // config.n_layers), parts["embedding"] + parts["positions"] + parts["head"])


def all_reduce_bytes(params: int, ranks: int, bytes_per_value: int = FP32) -> float:
    """Bytes that each rank sends, and receives, to add up all gradients in a ring: 2 (W - 1) / W N s. luthier adds them up in fp32.

    Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", section 4.
    """
    return 2 * (ranks - 1) / ranks * params * bytes_per_value


@dataclass(frozen=True)
class Option:
    """One way to train, what a rank then takes, and how many rows fit at a time."""

    way: Way
    checkpointing: str
    rows: int
    """Rows at a time, as the recipe says, but no more than a rank's share of a step."""
    bytes: int
    fits: bool | None
    most_rows: int | None
    """The largest micro-batch of one rank, at most its share of a step; 0 where not even one row fits."""


Need = Callable[[int, str, Way], Mapping[str, int]]
"""Bytes by part for rows at a time, a kind of checkpointing, a way."""


def options(need: Need, rows: int, rows_of_step: int, ranks: int, available: float | None) -> tuple[Option, ...]:
    """Every way with every kind of checkpointing, at the micro-batch of the recipe."""
    found: list[Option] = []
    for way in WAYS:
        share = rows_of_step if way == "one" else -(-rows_of_step // ranks)
        for kind in CHECKPOINTING:
            size = sum(need(min(rows, share), kind, way).values())
            most = None if available is None else most_rows(need, share, kind, way, available)
            found.append(Option(way, kind, min(rows, share), size, None if available is None else size <= available, most))
    return tuple(found)


def rows_at_a_time(
    settings: TrainingSection, seq_len: int, of_step: int, ranks: int, need: Need, way: Way, available: float | None, *, on_gpu: bool
) -> int:
    """The micro-batch of a rank, as the trainer settles it: what is asked for; else on a GPU all that fits, elsewhere what is usual."""
    share = -(-of_step // ranks)
    usual = min(micro_batch_rows(settings, seq_len, on_gpu=on_gpu), share)
    if settings.micro_batch_size is not None or available is None:
        return usual
    return max(1, most_rows(need, share if on_gpu else usual, settings.activation_checkpointing, way, available))


def most_rows(need: Need, limit: int, kind: str, way: Way, available: float) -> int:
    """The largest micro-batch up to a limit whose bytes are available; 0 where not even one row's are."""
    fits, fails = 0, limit + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        enough = sum(need(middle, kind, way).values()) <= available
        fits, fails = (middle, fails) if enough else (fits, middle)
    return fits
