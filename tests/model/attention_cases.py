"""Random shapes and masks on which every attention must equal the definition; inputs lie between numbers that nobody may read."""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.model.attend import AttentionMask, alibi_slopes, attend, naive


@dataclass(frozen=True)
class Case:
    """B rows, H heads of which G share keys, T queries at the end of S keys, E wide."""

    batch: int
    heads: int
    groups: int
    queries: int
    keys: int
    width: int
    window: int | None = None
    alibi: bool = False
    documents: bool = False


def draw_cases(count: int, seed: int, most_heads: int = 8) -> list[Case]:
    """Cases with every ratio of heads and every mix of masks."""
    chance = random.Random(seed)
    cases: list[Case] = []
    for i in range(count):
        groups = (1, 2, 4, 8)[i % 4]
        keys = chance.choice([min(chance.randint(1, 300), chance.randint(1, 300)), chance.choice([1, 63, 64, 65, 127, 129, 191, 257])])
        cases.append(
            Case(
                batch=chance.randint(1, 2) if keys < 100 else 1,
                heads=groups * chance.randint(1, max(1, most_heads // groups)) if keys < 100 else groups,
                groups=groups,
                queries=keys if chance.random() < 0.8 else chance.randint(1, keys),
                keys=keys,
                width=chance.choice([8, 16, 24, 32]),
                window=chance.choice([None, 1, chance.randint(1, 100)]) if i % 8 >= 4 else None,
                alibi=i % 3 == 1,
                documents=i % 5 in (2, 3),
            )
        )
    return cases


def draw(case: Case, dtype: torch.dtype, device: str = "cpu") -> tuple[list[Tensor], AttentionMask, Tensor]:
    """Queries, keys and values, a mask, and the gradient of the result; NaN lies before and behind every head."""
    chance = torch.Generator().manual_seed(zlib.crc32(repr(case).encode()))

    def values(heads: int, length: int) -> Tensor:
        x = torch.full((case.batch, heads, length + 160, case.width), math.nan)
        x[:, :, 80 : 80 + length] = torch.randn(case.batch, heads, length, case.width, generator=chance)
        return x.to(device, dtype)[:, :, 80 : 80 + length]

    kv_heads = case.heads // case.groups
    q, k, v = values(case.heads, case.queries), values(kv_heads, case.keys), values(kv_heads, case.keys)
    doc_ids = (torch.rand(case.batch, case.keys, generator=chance) < 0.03).long().cumsum(1)
    if doc_ids.numel() % 2:  # numbers need not rise
        doc_ids = doc_ids % 3
    slopes = alibi_slopes(case.heads).to(device)
    mask = AttentionMask(case.window, slopes if case.alibi else None, doc_ids.to(device) if case.documents else None)
    return [q, k, v], mask, values(case.heads, case.queries)


def results(inputs: list[Tensor], mask: AttentionMask, d_out: Tensor, backend: str) -> list[Tensor]:
    """The heads and the gradients of queries, keys and values."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(leaves[0], leaves[1], leaves[2], mask, backend)
    return [out.detach(), *torch.autograd.grad(out, leaves, d_out)]


def expected(inputs: list[Tensor], mask: AttentionMask, d_out: Tensor) -> list[Tensor]:
    """The same by the definition in fp64."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    out = naive(leaves[0], leaves[1], leaves[2], mask)
    return [out.detach(), *torch.autograd.grad(out, leaves, d_out.double())]


def assert_equal(found: list[Tensor], right: list[Tensor], tolerance: float) -> None:
    """Every number is there, and differs by at most a share of the largest; inputs are about 1."""
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, right, strict=False):
        assert a.shape == b.shape and a.isfinite().all(), name
        assert (a.double() - b).abs().max() <= tolerance * max(1.0, b.abs().max().item()), name
