"""The model that all faults are tried on: 60 steps in a third of a second, from raw text, through the command line.

In: a seed, a directory. Out: arguments of the command, and what its end must be compared by.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.train.checkpoint import problems
from tests.stages.conftest import write_corpus

STEPS = 60
_RECIPE = """
[data]
sources = ["CORPUS"]
validation_share = 0.1
[tokenizer]
vocab_size = 300
[pack]
seq_len = 16
[model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
d_ff = 32
[optim]
name = "muon"
lr = 5e-3
muon_lr = 0.01
warmup_steps = 4
[pretrain]
steps = 60
global_batch_tokens = 64
device = "cpu"
precision = "fp32"
compile = "off"
eval_every = 20
eval_tokens = 128
sample_every = 30
checkpoint_every = 7
keep_checkpoints = 2
sample_prompts = ["The old"]
[sampling]
max_new_tokens = 4
"""
_CURVE = ("step", "train/loss", "val/loss", "val/bpb", "lr", "grad_norm", "tokens_seen")
_NOT_COMPARED = ("offsets",)
"""Lengths of the logs, in which times have more or fewer digits."""


def write_toy(directory: Path) -> Path:
    """Write the corpus and the recipe."""
    corpus = write_corpus(directory / "corpus", documents=60)
    recipe = directory / "toy.toml"
    recipe.write_text(_RECIPE.replace("CORPUS", str(corpus)))
    return recipe


@dataclass(frozen=True)
class Ending:
    """All that must be the same however often a run was disturbed."""

    sha256: str
    """Of weights, optimizer, random states, the loader's place and all other counters in the last checkpoint."""
    curve: tuple[tuple[Any, ...], ...]
    samples: tuple[Any, ...]
    fingerprints: tuple[tuple[str, str], ...]
    """Each stage's, as its record says."""

    def differences(self, other: Ending) -> list[str]:
        """Say where another ending is not this one."""
        found: list[str] = []
        if other.sha256 != self.sha256:
            found.append("the final hash differs")
        if other.fingerprints != self.fingerprints:
            found.append("a stage's fingerprint differs")
        if other.samples != self.samples:
            found.append("samples.jsonl differs")
        if other.curve != self.curve:
            steps = [row[0] for row in other.curve if row[1] is not None]
            twice = sorted({step for step in steps if steps.count(step) > 1})
            missing = sorted({*range(1, STEPS + 1)} - {*steps})
            found.append(f"metrics.jsonl differs (twice: {twice}, missing: {missing})")
        return found


def ending(root: Path) -> Ending:
    """Read the end of a finished run below `root`.

    Raises: whatever goes wrong when a file is missing or broken.
    """
    checkpoint = checkpoint_directories(root)[-1]
    digest = hashlib.sha256()
    for file in ("model.safetensors", "training.safetensors"):
        _hash_tensors(checkpoint / file, digest)
    state = json.loads((checkpoint / "state.json").read_text())
    digest.update(json.dumps({key: value for key, value in state.items() if key not in _NOT_COMPARED}, sort_keys=True).encode())
    stage = checkpoint.parents[1]
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (stage / "samples.jsonl").read_text().splitlines()]
    records = {path.parents[1].name: json.loads(path.read_text()) for path in root.glob("runs/store/*/*/stage.json")}
    return Ending(
        digest.hexdigest(),
        tuple(tuple(row.get(key) for key in _CURVE) for row in rows),
        tuple((row["step"], row["prompt"], row["text"]) for row in samples),
        tuple(sorted((name, record["fingerprint"]) for name, record in records.items())),
    )


def _hash_tensors(path: Path, digest: Any) -> None:
    """Add name, type, shape and bytes of each tensor, in the order of their names, as the file format defines them."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    for name in sorted(header):
        entry = header[name]
        begin, end = entry["data_offsets"]
        digest.update(f"{name} {entry['dtype']} {entry['shape']} ".encode() + content[8 + size + begin : 8 + size + end])


def checkpoint_directories(root: Path) -> list[Path]:
    """All checkpoints of the toy's pretraining, oldest first; temporary ones are left out."""
    return sorted(path for path in root.glob("runs/store/pretrain/*/checkpoints/step_*") if path.name[5:].isdigit())


def whole_checkpoints(root: Path) -> list[Path]:
    """Those that hold what was written."""
    return [path for path in checkpoint_directories(root) if not problems(path)]


def leftovers(root: Path) -> list[str]:
    """Temporary files and directories that should not be there any more."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.tmp-*"))


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's modification time and content, locks left out."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink() and path.name != "lock")
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
