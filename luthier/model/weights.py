"""Weights in and out of files, and their hash. In: a decoder or a safetensors file. Out: the other. Next room: train, export."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from luthier.errors import CheckpointError
from luthier.model.decoder import Decoder
from luthier.runs.files import atomic_file


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, whole or not at all, in an order that depends on their names only."""
    ordered = {name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)}
    with atomic_file(path) as file:
        file.write(save(ordered))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors.

    Raises: CheckpointError when the file is missing or no safetensors file.
    """
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None


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
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
