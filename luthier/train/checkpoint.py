"""Checkpoints that are whole or absent. In: a trainee and what surrounds it. Out: a directory, or a trainee as it was. Next: stages.

The protocol: every file is written to a temporary directory, flushed, synced and hashed; the manifest comes last; the directory is
renamed into place and its parent synced; then it is read back. Only verified checkpoints count for retention. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from luthier.config.schema import ModelConfig
from luthier.errors import CheckpointError
from luthier.model.decoder import Decoder
from luthier.model.weights import load_tensors, save_tensors, save_weights, weights_sha256
from luthier.runs.files import make_directory, read_json, sha256_file, storage_errors, sync_directory, write_json
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.loop import Trainee

MANIFEST = "MANIFEST.json"
FORMAT = 1


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to; a trainee with another identity is refused."""

    stage: str
    key: str


def save_checkpoint(root: Path, trainee: Trainee, tokenizer: Tokenizer, identity: Identity, extra: Mapping[str, Any], keep: int) -> Path:
    """Commit a checkpoint of this moment under `root/step_NNNNNN` and remove older ones beyond `keep`.

    Raises: StorageError when the disk is full or may not be written; older checkpoints stay.
    """
    final = root / f"step_{trainee.step:06d}"
    if final.exists() and not problems(final):
        return final
    make_directory(root)
    temporary = root / f"{final.name}.tmp-{uuid.uuid4().hex}"
    try:
        with storage_errors(temporary):
            temporary.mkdir()
        save_weights(trainee.model, temporary / "model.safetensors")
        rng = {"rng.torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            rng["rng.cuda"] = torch.cuda.get_rng_state()
        save_tensors({**trainee.optimizer.state(), **rng}, temporary / "training.safetensors")
        write_json(temporary / "config.json", trainee.model.config.model_dump())
        tokenizer.save(temporary / "tokenizer.json")
        state = {"step": trainee.step, "tokens_seen": trainee.tokens_seen, **extra}
        write_json(temporary / "state.json", state)
        files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in sorted(temporary.iterdir())}
        manifest = {
            "format": FORMAT,
            "stage": identity.stage,
            "key": identity.key,
            "step": trainee.step,
            "torch": torch.__version__,
            "weights_sha256": weights_sha256(trainee.model.state_dict()),
            "files": files,
        }
        write_json(temporary / MANIFEST, manifest)
        with storage_errors(final):
            if final.exists():
                shutil.rmtree(final)
            os.rename(temporary, final)
            sync_directory(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    found = problems(final)
    if found:
        raise CheckpointError(f"{final}: read back wrong after saving: {found[0]}", fix="check the disk; older checkpoints are intact")
    _retain(root, keep)
    return final


def load_newest(root: Path, trainee: Trainee, identity: Identity) -> tuple[dict[str, Any] | None, list[str]]:
    """Put a trainee back to the newest checkpoint that is whole; return its extra state and what was wrong with newer ones.

    Raises: CheckpointError when a whole checkpoint belongs to another stage or configuration.
    """
    complaints: list[str] = []
    for directory in reversed(checkpoints(root)):
        found = problems(directory)
        if found:
            complaints.append(found[0])
            continue
        manifest = read_json(directory / MANIFEST)
        if (manifest["stage"], manifest["key"]) != (identity.stage, identity.key):
            raise CheckpointError(
                f"{directory}: belongs to {manifest['stage']} {manifest['key']}, not to {identity.stage} {identity.key}",
                fix="its data, tokenizer or settings differ; move the directory away to start anew",
            )
        trainee.model.load_state_dict(load_tensors(directory / "model.safetensors"))
        training = load_tensors(directory / "training.safetensors")
        trainee.optimizer.load_state(training)
        torch.set_rng_state(training["rng.torch"])
        if "rng.cuda" in training and torch.cuda.is_available():
            torch.cuda.set_rng_state(training["rng.cuda"])
        state = read_json(directory / "state.json")
        trainee.step, trainee.tokens_seen = state["step"], state["tokens_seen"]
        return state, complaints
    return None, complaints


def load_model(directory: Path, device: str = "cpu") -> tuple[Decoder, Tokenizer]:
    """Load the model and tokenizer of one verified checkpoint.

    Raises: CheckpointError
    """
    found = problems(directory)
    if found:
        raise CheckpointError(found[0])
    try:
        config = ModelConfig.model_validate(read_json(directory / "config.json"))
    except ValidationError as error:
        raise CheckpointError(f"{directory / 'config.json'}: not a model's shape: {error.errors()[0]['msg']}") from None
    with torch.device("meta"):
        model = Decoder(config)
    model.to_empty(device=device)
    model.load_state_dict(load_tensors(directory / "model.safetensors"))
    return model.eval(), Tokenizer.load(directory / "tokenizer.json")


def checkpoints(root: Path) -> list[Path]:
    """List checkpoint directories, oldest first, whole or not; temporary ones of dead processes are removed."""
    if not root.is_dir():
        return []
    for leftover in root.glob("step_*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return sorted(p for p in root.glob("step_*") if p.is_dir())


def problems(directory: Path) -> list[str]:
    """Say what is wrong with a checkpoint: manifest, then sizes, then hashes. Files the manifest does not name are ignored."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        whole = manifest["format"] == FORMAT and {"stage", "key", "step"} <= manifest.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{directory / MANIFEST}: missing or unreadable"]
    if not whole:
        return [f"{directory / MANIFEST}: not a manifest of format {FORMAT}"]
    found: list[str] = []
    for name, (size, digest) in files.items():
        path = directory / name
        if not path.is_file():
            found.append(f"{path}: missing")
        elif path.stat().st_size != size:
            found.append(f"{path}: {path.stat().st_size} bytes, the manifest says {size}")
        elif sha256_file(path) != digest:
            found.append(f"{path}: its content is not what was written (SHA-256 differs)")
    return found


def _retain(root: Path, keep: int) -> None:
    whole = [directory for directory in checkpoints(root) if not problems(directory)]
    for directory in whole[:-keep]:
        shutil.rmtree(directory, ignore_errors=True)
