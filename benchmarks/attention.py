"""Attention on a CUDA device: our Triton kernels against the definition, PyTorch's flash back end and FlexAttention, in one run.

    python benchmarks/attention.py [--json] [--tiles]

bf16, causal, the same queries, keys and values for all; medians of milliseconds. The definition is written as usual: both products in
bf16, scores and softmax in fp32. Before it is timed, each is compared with the definition in fp32. `--tiles` times our kernels with other
tiles instead, for whoever tunes them. Without a CUDA device it says so, and nothing is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measuring import row, show
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from luthier.model import flash
from luthier.model.attend import AttentionMask, attend
from luthier.model.choose import Trial, draw, largest_difference, milliseconds
from luthier.model.flash import Tile, Tiles
from luthier.runs.progress import Progress, progress_for

TOKENS = 2**17
SHAPES = ((12, 12, 64), (16, 4, 128))
"""Heads, key heads, width: GPT-2's, and as models of a billion parameters have them."""
GOAL_NAIVE, GOAL_FLASH = 3.1, 0.7
TRIED = {
    "forward": (Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(128, 128, 8, 2), Tile(64, 64, 4, 3), Tile(128, 128, 8, 3)),
    "query_gradient": (Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(128, 32, 4, 4)),
    "key_gradient": (Tile(64, 128, 8, 3), Tile(64, 128, 8, 2), Tile(64, 128, 8, 1), Tile(32, 128, 8, 3), Tile(64, 64, 4, 3)),
}

Attention = Callable[[Tensor, Tensor, Tensor, AttentionMask], Tensor]


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """The definition as it is usually written for a GPU."""
    groups, length = q.shape[1] // k.shape[1], q.shape[2]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (B, H, T, E)
    scores = (q @ k.mT).float() * q.shape[3] ** -0.5  # (B, H, T, T)
    hidden = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v


def pytorch_flash(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """PyTorch's flash kernel, or an error where it cannot be taken."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return attend(q, k, v, mask, "sdpa")


def ours(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    return attend(q, k, v, mask, "triton")


def flex(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    return attend(q, k, v, mask, "flex")


def times(attention: Attention, inputs: list[Tensor], mask: AttentionMask) -> tuple[float, float]:
    """Forward, and forward with backward. Units: milliseconds"""
    q, k, v, d_out = inputs

    def forward() -> Tensor:
        with torch.no_grad():
            return attention(q, k, v, mask)

    leaves = [x.detach().requires_grad_() for x in (q, k, v)]

    def both() -> object:
        return torch.autograd.grad(attention(leaves[0], leaves[1], leaves[2], mask), leaves, d_out)

    return milliseconds(forward, "cuda"), milliseconds(both, "cuda")


def compare(heads: tuple[int, int, int], length: int, mask: AttentionMask | None, peers: dict[str, tuple[Attention, float | None]]) -> Any:
    """Rows of one shape: ours beside each peer."""
    trial = Trial(*heads, length, "bf16", mask is None, "cuda")
    if not (difference := largest_difference("triton", trial)) <= 4e-2:
        raise SystemExit(f"our kernels are wrong by {difference:.2g} of the largest value at {trial}")
    inputs, (drawn,) = draw(trial, TOKENS // length, length)
    mask = drawn if mask is None else mask
    kind = "documents" if mask.doc_ids is not None else "causal" if mask.window is None else f"window {mask.window}"
    own = times(ours, inputs, mask)
    for name, (peer, goal) in peers.items():
        for what, mine, theirs in zip(("forward", "forward and backward"), own, times(peer, inputs, mask), strict=True):
            title = f"{kind}, {length} positions, {heads[0]}/{heads[1]} heads of {heads[2]}, {what}"
            yield row(title, "ms", mine, name, theirs, theirs / mine, goal)


def measure(progress: Progress) -> list[dict[str, Any]]:
    """All rows; none without a CUDA device."""
    if not torch.cuda.is_available():
        return []
    found: list[dict[str, Any]] = []
    for heads in SHAPES:
        for length in (512, 2048, 8192):
            peers: dict[str, tuple[Attention, float | None]] = {"PyTorch's flash": (pytorch_flash, GOAL_FLASH)}
            if length == 512:
                peers["written out"] = (written_out, GOAL_NAIVE)
            progress.say(f"attention of {length} positions, heads of {heads[2]}")
            found += compare(heads, length, AttentionMask(), peers)
        for mask in (AttentionMask(window=1024), None):
            found += compare(heads, 8192, mask, {"FlexAttention": (flex, None)})
    return found


def other_tiles(heads: tuple[int, int, int], length: int = 2048) -> Iterator[str]:
    """Our kernels' times with each of `TRIED`, the other two kernels' tiles as they are."""
    trial = Trial(*heads, length, "bf16", False, "cuda")
    inputs, (mask,) = draw(trial, TOKENS // length, length)
    usual = flash.tiles(heads[2], 2)
    for kernel, tried in TRIED.items():
        for tile in tried:
            chosen = Tiles(**{**vars(usual), kernel: tile})
            flash.tiles = lambda *_, chosen=chosen: chosen
            try:
                forward, both = times(ours, inputs, mask)
                yield f"heads of {heads[2]}, {kernel}, {tile}: forward {forward:.3f} ms, with backward {both:.3f} ms"
            except Exception as error:  # too much shared memory, say
                yield f"heads of {heads[2]}, {kernel}, {tile}: {str(error).splitlines()[0]}"
    flash.tiles = lambda *_: usual


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--json", action="store_true", help="rows as JSON")
    arguments.add_argument("--tiles", action="store_true", help="time our kernels with other tiles")
    asked = arguments.parse_args()
    if not torch.cuda.is_available():
        print("attention: no CUDA device here, nothing was measured", file=sys.stderr)
    elif asked.tiles:
        usual = flash.tiles
        for heads in SHAPES:
            flash.tiles = usual
            for line in other_tiles(heads):
                print(line, flush=True)
        return
    show(measure(progress_for()), asked.json)


if __name__ == "__main__":
    main()
