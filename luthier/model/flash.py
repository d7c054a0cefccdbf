"""Flash attention: our Triton kernels behind one differentiable operator. In: queries, keys, values. Out: heads. Next: attend.

The operators are opaque to torch.compile, which calls them as they are. Triton is imported when they first run: it comes with PyTorch's
CUDA builds, and its interpreter (`TRITON_INTERPRET=1`) runs the kernels on a CPU, slowly.
"""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.errors import HardwareError

PIECE = 64
"""Positions whose document ids are looked at together when tiles are left out."""
_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? doc_ids, Tensor? slopes, Tensor? first_key, Tensor? last_query, int window) -> (Tensor, Tensor)"
)
_SCHEMA_BACKWARD = (
    "(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor log_norm, Tensor? doc_ids, Tensor? slopes, Tensor? first_key,"
    " Tensor? last_query, int window) -> (Tensor, Tensor, Tensor)"
)


@dataclass(frozen=True)
class Tile:
    """What one program of a kernel works on, and with what: M queries, N keys, warps, stages of loads in flight."""

    m: int
    n: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """The kernels' tiles; the two that make rows of queries share M."""

    forward: Tile
    query_gradient: Tile
    key_gradient: Tile


def tiles(head_dim: int, bytes_per_value: int, roomy: bool = True) -> Tiles:
    """The tiles for a width of heads; fixed, so that the same inputs give the same bits on one kind of device.

    None but those for `roomy` devices need more than 99 KiB of shared memory.
    """
    if bytes_per_value == 4:  # exact products, so no tensor cores
        if head_dim <= 64:
            return Tiles(Tile(32, 32, 4, 2), Tile(32, 32, 8, 1), Tile(32, 32, 4, 1))
        if head_dim <= 128:
            return Tiles(Tile(32, 32, 8, 2), Tile(32, 16, 8, 1), Tile(32, 32, 4, 1))
        return Tiles(Tile(16, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 32, 8, 1))
    if head_dim <= 64:
        return Tiles(Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(64, 128, 8, 3))
    if head_dim <= 128 and not roomy:
        return Tiles(Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 8, 2))
    if head_dim <= 128:
        return Tiles(Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(64, 128, 8, 2))
    return Tiles(Tile(64, 32, 8, 2), Tile(64, 32, 8, 1), Tile(32, 64 if roomy else 32, 8, 1))


def _tiles_for(q: Tensor) -> Tiles:
    return tiles(q.shape[3], q.element_size(), _roomy(q.device))


@torch.compiler.assume_constant_result
def _roomy(device: torch.device) -> bool:
    """Whether a block gets 160 KiB of shared memory. Source: CUDA C++ programming guide, table of compute capabilities."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) in ((8, 0), (9, 0), (10, 0), (10, 3))


def why_not_here(device: str) -> str | None:
    """Why the kernels cannot run on a device, or `None`."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"Triton has no kernels for {device}"
    return None


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int | None = None, slopes: Tensor | None = None, doc_ids: Tensor | None = None
) -> Tensor:
    """Attend causally, without the scores ever being in memory; the gradients' sums have a fixed order.

    Shapes: q (B, H, T, E), k and v (B, K, S, E), slopes (H,), doc_ids (B, S) -> (B, H, T, E)
    Raises: HardwareError where the kernels cannot run
    """
    if reason := why_not_here(q.device.type):
        raise HardwareError(f"attention=triton cannot run on {q.device.type}: {reason}", fix="set attention=auto")
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":  # Triton's interpreter takes the product of bf16 numbers' bits
        wide = flash_attention(q.float(), k.float(), v.float(), window=window, slopes=slopes, doc_ids=doc_ids)
        return wide.to(q.dtype)
    first_key = last_query = None
    if doc_ids is not None:
        doc_ids = doc_ids.to(torch.int32).contiguous()
        shape = _tiles_for(q)
        first_key, last_query = document_bounds(doc_ids, q.shape[2], shape.forward.m, shape.key_gradient.n)
    return _forward(q, k, v, doc_ids, slopes, first_key, last_query, window or 0)[0]


def document_bounds(doc_ids: Tensor, q_len: int, q_tile: int, k_tile: int) -> tuple[Tensor, Tensor]:
    """Find the first key that a tile of queries may see, and behind the last query that may see a tile of keys; or a little more.

    Pieces whose ids lie in ranges that do not meet have no document in common.
    Shapes: doc_ids (B, S) -> (B, T / q_tile), (B, S / k_tile)
    """
    query_ids = doc_ids[:, doc_ids.shape[1] - q_len :]  # (B, T)
    meets = _meet(_ranges(query_ids, q_tile), _ranges(doc_ids, PIECE))  # (B, T / q_tile, S / PIECE)
    first_key = meets.to(torch.int32).argmax(2) * PIECE
    meets = _meet(_ranges(query_ids, PIECE), _ranges(doc_ids, k_tile)).flip(1)  # (B, T / PIECE, S / k_tile)
    last_query = (meets.shape[1] - meets.to(torch.int32).argmax(1)) * PIECE
    return first_key.to(torch.int32), last_query.to(torch.int32)


def _ranges(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest id of each piece: two of (B, pieces)."""
    pieces = math.ceil(ids.shape[1] / size)
    places = torch.arange(pieces * size, device=ids.device).clamp_max(ids.shape[1] - 1)
    cut = ids[:, places].unflatten(1, (pieces, size))  # (B, pieces, size)
    return cut.amin(2), cut.amax(2)


def _meet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    return (a[0][:, :, None] <= b[1][:, None, :]) & (b[0][:, None, :] <= a[1][:, :, None])


def _rows(x: Tensor) -> Tensor:
    """A tensor whose rows lie in one piece each."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _heads_like(x: Tensor) -> Tensor:
    """An empty tensor (B, H, T, E) that is (B, T, H, E) in memory, so that joining its heads costs nothing."""
    batch, heads, length, width = x.shape
    return x.new_empty((batch, length, heads, width)).transpose(1, 2)


def _programs(x: Tensor, tile: int) -> int:
    """Tiles of rows in all heads."""
    return x.shape[0] * x.shape[1] * math.ceil(x.shape[2] / tile)


def _launch(kernel: Any, programs: int, pointers: tuple[Tensor | None, ...], numbers: tuple[Any, ...], constants: dict[str, Any]) -> None:
    assert pointers[0] is not None
    with torch.cuda.device_of(pointers[0]):
        kernel[(programs,)](*pointers, *numbers, **constants)


def _numbers(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Any, ...]:
    """What all kernels take behind their pointers; the scale is that of scores in base 2."""
    heads, length, width = q.shape[1:]
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    return *strides, heads, heads // k.shape[1], length, k.shape[2], math.log2(math.e) / math.sqrt(width), window


def _constants(q: Tensor, doc_ids: Tensor | None, slopes: Tensor | None, window: int, tile: Tile) -> dict[str, Any]:
    width = q.shape[3]
    return {
        "WINDOWED": window > 0,
        "ALIBI": slopes is not None,
        "DOCUMENTS": doc_ids is not None,
        "E": width,
        "BLOCK_E": max(16, 1 << (width - 1).bit_length()),
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


@torch.library.custom_op("luthier::flash_attention", mutates_args=(), schema=_SCHEMA)
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    doc_ids: Tensor | None,
    slopes: Tensor | None,
    first_key: Tensor | None,
    last_query: Tensor | None,
    window: int,
) -> tuple[Tensor, Tensor]:
    from luthier.model.flash_kernels import forward_kernel

    q, k, v = _rows(q), _rows(k), _rows(v)
    out, log_norm = _heads_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    tile = _tiles_for(q).forward
    pointers = (q, k, v, out, log_norm, doc_ids, slopes, first_key)
    _launch(forward_kernel, _programs(q, tile.m), pointers, _numbers(q, k, v, window), _constants(q, doc_ids, slopes, window, tile))
    return out, log_norm


@torch.library.custom_op("luthier::flash_attention_backward", mutates_args=(), schema=_SCHEMA_BACKWARD)
def _backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_norm: Tensor,
    doc_ids: Tensor | None,
    slopes: Tensor | None,
    first_key: Tensor | None,
    last_query: Tensor | None,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    from luthier.model.flash_kernels import key_gradient_kernel, query_gradient_kernel

    q, k, v = _rows(q), _rows(k), _rows(v)
    d_out, out = (x.transpose(1, 2).contiguous() for x in (d_out, out))  # (B, T, H, E)
    dq, dk, dv, delta = _heads_like(q), _heads_like(k), _heads_like(v), torch.empty_like(log_norm)
    tile, numbers = _tiles_for(q), (*_numbers(q, k, v, window), 1 / math.sqrt(q.shape[3]))
    constants = _constants(q, doc_ids, slopes, window, tile.query_gradient)
    pointers = (q, k, v, out, d_out, log_norm, delta, dq, doc_ids, slopes, first_key)
    _launch(query_gradient_kernel, _programs(q, tile.query_gradient.m), pointers, numbers, constants)
    constants = _constants(q, doc_ids, slopes, window, tile.key_gradient)
    pointers = (q, k, v, d_out, log_norm, delta, dk, dv, doc_ids, slopes, last_query)
    _launch(key_gradient_kernel, _programs(k, tile.key_gradient.n), pointers, numbers, constants)
    return dq, dk, dv


@_forward.register_fake
def _(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _heads_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@_backward.register_fake
def _(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return _heads_like(q), _heads_like(k), _heads_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *rest, ctx.window = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, *rest)


def _differentiate(ctx: Any, d_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(d_out, *ctx.saved_tensors, ctx.window), None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
