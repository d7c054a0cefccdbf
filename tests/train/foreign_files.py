"""Run as a process of its own: give luthier malicious files wherever it takes files, and watch what the interpreter does meanwhile.

Prints one JSON object: what became of each try, and the events that a pickle, a foreign file or a network would have caused.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from luthier.config.data import DataSection, SourceConfig
from luthier.config.load import load_recipe
from luthier.data.documents import build_documents
from luthier.data.parquet import read_rows
from luthier.errors import LuthierError
from luthier.model.weights import load_tensors
from luthier.pack.checksums import map_array
from luthier.runs.files import sha256_file
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.runs.progress import Progress
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.checkpoint import MANIFEST, load_model, load_newest, problems, snapshot, write_checkpoint
from tests.train.small_training import train, trainee
from tests.train.test_checkpoint import IDENTITY, TOKENIZER

FORBIDDEN = (
    "exec",
    "pickle.find_class",
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "shutil.",
)
FOREIGN = ("weights.pt", "pytorch_model.bin", "tokenizer.pkl", ".metadata", "optimizer.pt")


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w').write('owned'); import socket; socket.socket()",)


def payloads(mark: Path) -> dict[str, bytes]:
    """A bare pickle, a text one, what torch.save writes, and an array of objects."""
    folder = Path(tempfile.mkdtemp())
    with zipfile.ZipFile(folder / "archive", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Malicious(mark), 2))
        archive.writestr("archive/version", "3\n")
    objects = np.empty(1, object)
    objects[0] = Malicious(mark)
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    found = {"binary": pickle.dumps(Malicious(mark)), "text": pickle.dumps(Malicious(mark), 0)}
    found |= {"archive": (folder / "archive").read_bytes(), "array": (folder / "objects.npy").read_bytes()}
    shutil.rmtree(folder)
    return found


def put(directory: Path, name: str, content: bytes) -> Path:
    """Replace a checkpoint's file and make the manifest agree, as one who wants it loaded would."""
    (directory / name).write_bytes(content)
    if name != MANIFEST:
        manifest = read_manifest(directory / MANIFEST) or {}
        manifest["files"][name] = {"bytes": len(content), "sha256": sha256_file(directory / name)}
        write_manifest(directory / MANIFEST, manifest)
    return directory


def tries(root: Path, whole: Path, content: bytes) -> dict[str, Callable[[], object]]:
    """Every door that takes a file; the files are laid out at once, the doors are opened by calling."""

    def altered(name: str) -> Path:
        parent = root / f"altered-{name}"
        shutil.copytree(whole, parent / whole.name)
        return put(parent / whole.name, name, content)

    def load(name: str) -> Callable[[], object]:
        directory = altered(name)
        return lambda: load_model(directory)

    def resume(name: str) -> Callable[[], object]:
        directory = altered(name)
        who = trainee()
        return lambda: load_newest(directory.parent, who, IDENTITY)

    beside = root / "beside" / whole.name
    shutil.copytree(whole, beside)
    sources = root / "sources"
    sources.mkdir()
    for name in FOREIGN:
        (beside / name).write_bytes(content)
        (sources / name.lstrip(".")).write_bytes(content)
    alone = root / "alone.pt"
    alone.write_bytes(content)

    def build(path: Path) -> object:
        section = DataSection(sources=(SourceConfig(path=str(path)),))
        return build_documents(section, 1, root / f"out-{path.name}", root / "cache", Progress())

    return {
        "beside a checkpoint": lambda: load_model(beside),
        "as weights": load("model.safetensors"),
        "as a tokenizer": load("tokenizer.json"),
        "as a shape": load("config.json"),
        "as a manifest": load(MANIFEST),
        "as optimizer state": resume("training.safetensors"),
        "as counters": resume("state.json"),
        "problems": lambda: problems(beside),
        "as tensors": lambda: load_tensors(alone),
        "as tokenizer.pkl": lambda: Tokenizer.load(alone),
        "as an array": lambda: map_array(root, {"file": alone.name, "size": 0, "sha256": "", "crc32": ""}),
        "as documents": lambda: list(read_rows(alone)),
        "as a recipe": lambda: load_recipe([alone]),
        "as a source": lambda: build(alone),
        "as a folder of sources": lambda: build(sources),
    }


def main() -> None:
    root = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    mark = root / "owned"
    who = trainee()
    train(who, 1)
    whole = write_checkpoint(root / "whole", snapshot(who, {"offsets": {}}, {}), TOKENIZER, IDENTITY)
    outcomes: dict[str, str] = {}
    events: list[str] = []
    watching = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event == "open":
            path = arguments[0]
            if isinstance(path, str | bytes) and not os.fsdecode(path).startswith(str(root)):
                events.append(f"open {path!r}")
        elif event.startswith(FORBIDDEN):
            events.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)
    for name, content in {"harmless": b"not a pickle\n", **payloads(mark)}.items():
        folder = root / name
        folder.mkdir()
        for door, attempt in tries(folder, whole, content).items():
            watching = name != "harmless"  # whose turn is to import what is imported late
            try:
                attempt()
                outcome = "taken"
            except LuthierError as error:
                outcome = type(error).__name__
            except Exception as error:
                outcome = f"untyped {type(error).__name__}: {error}"
            finally:
                watching = False
            outcomes[f"{name} {door}"] = outcome
    seen, owned = list(events), mark.exists()
    watching = True
    pickle.loads(payloads(mark)["binary"])  # to show that the watch would have seen it
    watching = False
    control = sorted({event.split()[0] for event in events[len(seen) :]})
    print(json.dumps({"outcomes": outcomes, "events": seen, "owned": owned, "control": control}))


if __name__ == "__main__":
    main()
