"""Checkpoints that are whole or absent. In: a snapshot of a trainee. Out: a directory, or a trainee as it was. Next: saving, stages.

The protocol: every file is written to a temporary directory, flushed, synced and hashed; the manifest comes last; the directory is
renamed into place and its parent synced; then it is read back. Only verified checkpoints count for retention. Nothing is pickled.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from luthier.config.differences import differences
from luthier.config.model import ModelConfig
from luthier.errors import CheckpointError
from luthier.model.decoder import Decoder
from luthier.model.weights import load_tensors, require_like, save_tensors, weights_sha256
from luthier.plan.parameters import count
from luthier.runs.files import make_directory, read_json, sha256_file, storage_errors, sync_directory, write_json
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.guards import Health
from luthier.train.loop import Trainee
from luthier.train.parallel import World
from luthier.train.randomness import random_state, restore_random_state
from luthier.train.scaler import LossScaler

MANIFEST = "MANIFEST.json"
FORMAT = 2


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to; a trainee with another identity is refused."""

    stage: str
    key: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the key is the hash of, so that a refusal can say what differs."""
    parent: str | None = None
    """Key of the training that this one goes on from under changed settings; its checkpoints are taken too."""


@dataclass(frozen=True)
class Snapshot:
    """A trainee at one moment, in memory that training does not touch."""

    step: int
    weights: Mapping[str, Tensor]
    training: Mapping[str, Tensor]
    config: Mapping[str, Any]
    state: Mapping[str, Any]


def snapshot(trainee: Trainee, extra: Mapping[str, Any], buffers: dict[str, Tensor]) -> Snapshot:
    """Copy what a checkpoint holds into `buffers`, which are made at the first call and used again."""

    def copy(name: str, tensor: Tensor) -> Tensor:
        there = buffers.get(name)
        if there is None or there.shape != tensor.shape or there.dtype != tensor.dtype:
            there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            buffers[name] = there
        there.copy_(tensor.detach(), non_blocking=True)
        return there

    weights = {name: copy(name, tensor) for name, tensor in trainee.model.state_dict().items()}
    training = {name: copy(f"training/{name}", tensor) for name, tensor in {**trainee.optimizer.state(), **random_state()}.items()}
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    state = {
        "step": trainee.step,
        "cursor": trainee.cursor,
        "tokens_seen": trainee.tokens_seen,
        "micro_batch_size": trainee.micro_batch_size,
        "health": trainee.health.as_dict(),
        "scaler": None if trainee.scaler is None else trainee.scaler.as_dict(),
        **extra,
    }
    return Snapshot(trainee.step, weights, training, trainee.model.config.model_dump(), state)


def write_checkpoint(root: Path, shot: Snapshot, tokenizer: Tokenizer, identity: Identity) -> Path:
    """Commit a snapshot under `root/step_NNNNNN` and read it back.

    Raises: StorageError when the disk is full or may not be written; CheckpointError when it reads back wrong. Older ones stay.
    """
    final = root / f"step_{shot.step:06d}"
    if read_json(final / "state.json") == shot.state and not problems(final):
        return final  # saved before, at a stop just here
    make_directory(root)
    temporary = root / f"{final.name}.tmp-{uuid.uuid4().hex}"
    try:
        with storage_errors(temporary):
            temporary.mkdir()
        files = {
            "model.safetensors": save_tensors(shot.weights, temporary / "model.safetensors"),
            "training.safetensors": save_tensors(shot.training, temporary / "training.safetensors"),
        }
        write_json(temporary / "config.json", dict(shot.config))
        tokenizer.save(temporary / "tokenizer.json")
        write_json(temporary / "state.json", dict(shot.state))
        for name in ("config.json", "state.json", "tokenizer.json"):
            path = temporary / name
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        manifest = {
            "format": FORMAT,
            "stage": identity.stage,
            "key": identity.key,
            "settings": dict(identity.settings),
            "step": shot.step,
            "tokenizer": tokenizer.fingerprint,
            "torch": torch.__version__,
            "weights_sha256": weights_sha256(shot.weights),
            "files": files,
        }
        write_manifest(temporary / MANIFEST, manifest)
        with storage_errors(final):
            if final.exists():
                remove(final)
            os.rename(temporary, final)
            sync_directory(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    found = problems(final)
    if found:
        raise CheckpointError(f"{final}: read back wrong after saving: {found[0]}", fix="check the disk; older checkpoints are intact")
    return final


def load_newest(root: Path, trainee: Trainee, identity: Identity, every: int = 1) -> tuple[dict[str, Any] | None, list[str]]:
    """Put a trainee back to the newest checkpoint that is whole; return its state and what was wrong with newer ones.

    `every` takes only checkpoints of steps that are multiples of it.
    Raises: CheckpointError when a whole checkpoint belongs to another stage or configuration.
    """
    complaints: list[str] = []
    for directory in reversed(checkpoints(root)):
        if step_of(directory) % every:
            continue
        found = problems(directory)
        if found:
            complaints.append(found[0])
            continue
        _require_identity(directory, identity)
        trainee.model.load_state_dict(load_tensors(directory / "model.safetensors", trainee.model.state_dict()))
        training = load_tensors(directory / "training.safetensors", trainee.optimizer.state())
        trainee.optimizer.load_state(training)
        restore_random_state(training)
        state: dict[str, Any] = read_json(directory / "state.json")
        try:
            take_state(trainee, state)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{directory / 'state.json'}: not the counters of a training: {error}") from None
        return state, complaints
    return None, complaints


def spread(trainee: Trainee, state: dict[str, Any] | None, world: World) -> dict[str, Any] | None:
    """Give every rank the leading rank's weights, optimizer state, random state and counters; return the leading rank's `state`."""
    if world.size == 1:
        return state
    training = {**trainee.optimizer.state(), **random_state()}
    state = world.share({**trainee.model.state_dict(), **training}, state)
    if not world.leads:
        trainee.optimizer.load_state(training)
        restore_random_state(training)
        if state is not None:
            take_state(trainee, state)
    return state


def take_state(trainee: Trainee, state: Mapping[str, Any]) -> None:
    """Put a trainee's counters to those of a checkpoint."""
    trainee.step, trainee.cursor, trainee.tokens_seen = state["step"], state["cursor"], state["tokens_seen"]
    trainee.micro_batch_size = min(trainee.micro_batch_size, state["micro_batch_size"])
    trainee.health = Health(**state["health"])
    if trainee.scaler is not None and (scaler := state.get("scaler")):
        trainee.scaler = LossScaler(**scaler)


def load_model(directory: Path, device: str = "cpu") -> tuple[Decoder, Tokenizer]:
    """Load the model and tokenizer of one verified checkpoint.

    Raises: CheckpointError
    """
    found = problems(directory)
    if found:
        raise CheckpointError(found[0], fix="`luthier verify RUN --repair` makes again what is damaged")
    try:
        config = ModelConfig.model_validate(read_json(directory / "config.json"))
    except ValidationError as error:
        raise CheckpointError(f"{directory / 'config.json'}: not a model's shape: {error.errors()[0]['msg']}") from None
    tensors = load_tensors(directory / "model.safetensors")
    named, there = count(config)["total"], sum(tensor.numel() for tensor in tensors.values())
    if named != there:  # asked before anything of that size is built
        raise CheckpointError(f"{directory}: config.json describes {named:,} parameters, model.safetensors has {there:,}")
    with torch.device("meta"):
        model = Decoder(config)
    require_like(tensors, model.state_dict(), directory / "model.safetensors")
    model.to_empty(device=device)
    model.load_state_dict(tensors)
    return model.eval(), Tokenizer.load(directory / "tokenizer.json")


def step_of(directory: Path) -> int:
    """The step in a checkpoint directory's name."""
    return int(directory.name.removeprefix("step_"))


def checkpoints(root: Path) -> list[Path]:
    """List checkpoint directories, oldest first, whole or not."""
    found = [p for p in root.glob("step_*") if p.name.removeprefix("step_").isdecimal() and p.is_dir()]
    return sorted(found, key=step_of)


def clean(root: Path) -> None:
    """Remove what dead processes left half-written or half-deleted; only for the one that holds the lock."""
    for leftover in root.glob("step_*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def remove(directory: Path) -> None:
    """Delete a checkpoint; one whose deletion was interrupted is not taken for a checkpoint any more."""
    doomed = directory.with_name(f"{directory.name}.tmp-{uuid.uuid4().hex}")
    os.rename(directory, doomed)
    if doomed.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink(missing_ok=True)


def retain(root: Path, keep: int, protected: Iterable[Path], verified: set[Path]) -> None:
    """Delete all but the newest `keep` whole checkpoints and the `protected`; `verified` are known to be whole."""
    whole = [directory for directory in checkpoints(root) if directory in verified or not problems(directory)]
    verified.update(whole)
    for directory in set(whole[:-keep]) - set(protected):
        remove(directory)
        verified.discard(directory)


def problems(directory: Path) -> list[str]:
    """Say what is wrong with a checkpoint: manifest, then sizes, then hashes. Files the manifest does not name are ignored."""
    manifest = read_manifest(directory / MANIFEST)
    if manifest is None:
        return [f"{directory / MANIFEST}: missing or not what was written"]
    if manifest.get("format") != FORMAT:
        return [f"{directory / MANIFEST}: a checkpoint must have format {FORMAT}, this has {manifest.get('format')!r}"]
    found: list[str] = []
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_describes_a_file(name, entry) for name, entry in files.items()):
        return [f"{directory / MANIFEST}: it must give size and SHA-256 of files beside it"]
    for name, entry in files.items():
        path = directory / name
        if not path.is_file():
            found.append(f"{path}: missing")
        elif path.stat().st_size != entry["bytes"]:
            found.append(f"{path}: {path.stat().st_size} bytes, the manifest says {entry['bytes']}")
        elif sha256_file(path) != entry["sha256"]:
            found.append(f"{path}: its content is not what was written (SHA-256 differs)")
    return found


def _describes_a_file(name: str, entry: Any) -> bool:
    return Path(name).name == name and isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys()


def _require_identity(directory: Path, identity: Identity) -> None:
    manifest = read_manifest(directory / MANIFEST) or {}
    if manifest.get("stage") == identity.stage and manifest.get("key") in (identity.key, identity.parent):
        return
    diff = differences(manifest.get("settings"), dict(identity.settings))
    raise CheckpointError(
        "\n  ".join(
            [
                f"{directory}: belongs to {manifest.get('stage')} {manifest.get('key')}, not to {identity.stage} {identity.key}",
                *diff,
            ]
        ),
        fix="its data, tokenizer or settings differ; move the directory away to start anew",
    )
