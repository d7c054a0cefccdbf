"""What to change where a recipe does not fit. In: the ways to train it. Out: changes, each with what it then takes. Next: report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luthier.plan.gpus import TABLE
from luthier.plan.parallel import CHECKPOINTING, Need, Option, Way

_PRICE = {"selective": "all but products is computed twice", "blocks": "a third more compute"}


@dataclass(frozen=True)
class Advice:
    """One change with which it fits."""

    change: str
    bytes: int
    """What a rank then takes."""
    price: str = ""
    """What it costs in return."""


def advice(
    found: Sequence[Option], own: Way, kept: str, rows: int, ranks: int, need: Need, elsewhere: int, precision: str
) -> tuple[Advice, ...]:
    """Changes with which it fits, the cheapest first: fewer rows at a time, checkpointing, both, FSDP, a machine with more memory.

    `elsewhere` is what it takes on one GPU, in the same type.
    """
    changes: list[Advice] = []
    mine = {one.checkpointing: one for one in found if one.way == own}
    if fewer := mine[kept].most_rows:
        changes.append(Advice(f"pretrain.micro_batch_size={fewer}", sum(need(fewer, kept, own).values()), "more passes for each step"))
    for kind in CHECKPOINTING[CHECKPOINTING.index(kept) + 1 :]:
        key = f"pretrain.activation_checkpointing={kind}"
        if mine[kind].fits:
            changes.append(Advice(key, mine[kind].bytes, _PRICE[kind]))
        elif most := mine[kind].most_rows:
            changes.append(Advice(f"{key} pretrain.micro_batch_size={most}", sum(need(most, kind, own).values()), _PRICE[kind]))
    shared = next((one for one in found if one.way == "fsdp" and one.most_rows), None)
    if shared is not None and shared.most_rows:
        kind, at_once = shared.checkpointing, min(rows, shared.most_rows)
        how = f" with {kind} checkpointing" if kind != "off" else ""
        size = sum(need(at_once, kind, "fsdp").values())
        change = f"FSDP over {ranks}{how}, {at_once} {'rows' if at_once > 1 else 'row'} at a time"
        changes.append(Advice(change, size, "luthier itself trains with DDP only"))
    if (larger := _smallest(elsewhere, precision)) is not None:
        changes.append(Advice(f"--hardware {larger}", elsewhere, f"of {TABLE[larger].memory_gib:g} GiB"))
    return tuple(changes)


def _smallest(size: int, precision: str) -> str | None:
    """The GPU with the least memory that holds so many bytes, of those that have the type."""
    enough = [(one.memory_gib, name) for name, one in TABLE.items() if size <= one.memory_gib * 2**30 and precision in one.peak]
    return min(enough)[1] if enough else None
