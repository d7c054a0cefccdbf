from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config.data import DataSection, SourceConfig
from luthier.data.documents import build_documents
from luthier.data.reading.sources import SourceReport, read_source
from luthier.runs.progress import Progress


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def read(cache: Path) -> Callable[..., tuple[list[dict[str, Any]], SourceReport]]:
    def _read(path: Path, **settings: Any) -> tuple[list[dict[str, Any]], SourceReport]:
        report = SourceReport("test")
        return list(read_source(SourceConfig(path=str(path), **settings), cache, report)), report

    return _read


@pytest.fixture
def build(tmp_path: Path, cache: Path) -> Callable[..., tuple[dict[str, Any], Path]]:
    def _build(*paths: Path | SourceConfig, seed: int = 1, to: str = "out", **settings: Any) -> tuple[dict[str, Any], Path]:
        sources = tuple(p if isinstance(p, SourceConfig) else SourceConfig(path=str(p)) for p in paths)
        directory = tmp_path / to
        return build_documents(DataSection(sources=sources, **settings), seed, directory, cache, Progress()), directory

    return _build


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.jsonl"
    rows = [{"text": f"Story number {i}. A fox named {i * 7} met a bear and they shared {i} berries."} for i in range(300)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def make_wheel(folder: Path, members: dict[str, bytes], name: str = "tiny_texts", version: str = "1.0") -> tuple[Path, str]:
    """Write the smallest wheel that pip accepts; give its path and sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member, data in files.items():
            file.writestr(member, data)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()
