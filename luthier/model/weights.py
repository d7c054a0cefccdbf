"""Weights in and out of files, and their hash. In: a decoder or a safetensors file. Out: the other. Next room: train, export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from luthier.errors import CheckpointError
from luthier.model.decoder import Decoder
from luthier.runs.files import atomic_file

_TYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Write a safetensors file straight from the tensors' memory, whole or not at all; return its size and SHA-256.

    The bytes depend on names and content only. The hash is taken while writing.
    Source: the format, https://huggingface.co/docs/safetensors
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # large types first: all stay aligned
    header: dict[str, Any] = {}
    end = 0
    for name in ordered:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {"dtype": _TYPE_NAMES[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        for part in chain((len(text).to_bytes(8, "little"), text), (_raw(tensors[name]) for name in ordered)):
            file.write(part)
            digest.update(part)
    return {"bytes": 8 + len(text) + end, "sha256": digest.hexdigest()}


def _raw(tensor: Tensor) -> memoryview:
    """A tensor's bytes, without a copy where it lies in main memory."""
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data


def load_tensors(path: Path, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read tensors; with `like`, exactly those names with those types and shapes, besides `rng.*`.

    Raises: CheckpointError when the file is missing, no safetensors file, or holds something else.
    """
    try:
        data = path.read_bytes()
        tensors = load(data)
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_each_once)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None
    if like is not None:
        require_like(tensors, like, path)
    return tensors


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that stands twice: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name in its header stands twice")
    return found


def require_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], path: Path) -> None:
    """Check that tensors read from `path` have the names, types and shapes of `like`; `rng.*` besides is the machine's.

    Raises: CheckpointError naming the first that has not.
    """
    for name in sorted({*tensors, *like}):
        got, wanted = (_described(group.get(name)) for group in (tensors, like))
        if got != wanted and not name.startswith("rng."):
            raise CheckpointError(f"{path}: tensor {name} must be {wanted}, is {got}", fix="it is of another model, or was altered")


def _described(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def save_weights(model: Decoder, path: Path) -> None:
    """Write a decoder's weights as safetensors."""
    save_tensors(model.state_dict(), path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a decoder's weights; give them to `Decoder.load_state_dict`."""
    return load_tensors(path)


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash name, type, shape and bytes of every tensor, sorted by name; hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{list(tensor.shape)}\0".encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()
