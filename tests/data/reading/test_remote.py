# pyright: reportUnknownMemberType=false
from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.config.data import SourceConfig
from luthier.data.reading import digests
from luthier.data.reading.sources import read_source, source_fingerprint, source_size
from luthier.data.reading.units import units
from luthier.data.report import SourceReport
from luthier.errors import DataError, MissingExtraError

from .test_archives import _zip


@pytest.fixture
def store() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.pipe("/shop/texts/a.txt", b"alpha")
    system.pipe("/shop/texts/deep/b.jsonl", b'{"text": "beta"}\n')
    system.pipe("/shop/texts/c.zip", _zip({"c.txt": b"gamma"}))
    system.pipe("/shop/texts/.hidden.txt", b"no")
    system.pipe("/shop/texts/x.bin", b"\0")
    with system.open("/shop/texts/d.parquet", "wb") as file:
        pq.write_table(pa.table({"text": ["delta"]}), file)
    yield system
    system.rm("/shop", recursive=True)


def _read(path: str, cache: Path) -> tuple[list[str], SourceReport]:
    source, report = SourceConfig(path=path), SourceReport("x")
    texts = [record["text"] for record in read_source(source, cache, report)]
    assert report.bytes_read == source_size(source, cache)
    return texts, report


def test_a_folder_at_an_address_is_read_like_one_here(store: Any, cache: Path) -> None:
    texts, report = _read("memory://shop/texts", cache)
    assert texts == ["alpha", "gamma", "delta", "beta"]
    assert report.dropped == {"unknown_type": 1, "hidden_file": 1}
    assert _read("memory://shop/texts/*.txt", cache)[0] == ["alpha"]
    assert _read("memory://shop/texts/deep/b.jsonl", cache)[0] == ["beta"]


def test_the_same_content_has_the_same_key_here_and_there(store: Any, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "z.txt").write_text("alpha")
    here = units(SourceConfig(path=str(tmp_path / "z.txt")), cache, SourceReport("x"))
    there = units(SourceConfig(path="memory://shop/texts/a.txt"), cache, SourceReport("x"))
    assert [unit.key for unit in here] == [unit.key for unit in there]


def test_file_addresses_are_paths(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    assert _read(f"file://{tmp_path}", cache)[0] == ["alpha"]


def test_a_digest_of_the_store_saves_reading(store: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SourceConfig(path="memory://shop/texts/a.txt")
    real, info = store.info, {"ETag": '"abc"'}
    monkeypatch.setattr(type(store), "info", lambda self, path, **_: {**real(path), **info})
    monkeypatch.setattr(digests, "open_place", lambda place: pytest.fail("read"))
    first = source_fingerprint(source, cache)
    info["ETag"] = '"def"'
    assert source_fingerprint(source, cache) != first


def test_a_failing_store_ends_the_work_and_is_no_damage(store: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [SourceConfig(path=f"memory://shop/texts/{name}") for name in ("a.txt", "c.zip", "d.parquet")]
    found = [units(source, cache, SourceReport("x")) for source in sources]
    assert all(found)

    def lost(self: Any, *args: Any) -> bytes:
        raise TimeoutError("the line is dead")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", lost, raising=False)
    for source in sources:
        with pytest.raises(DataError, match="cannot be read: the line is dead"):
            list(read_source(source, cache, SourceReport("x")))


def test_missing_things_are_named(store: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="memory://shop/nothing: there is no"):
        _read("memory://shop/nothing", cache)
    with pytest.raises(DataError, match="Protocol not known"):
        _read("nosuch://shop", cache)
    with pytest.raises(DataError, match='kind="url"'):
        _read("https://example.org/a.txt", cache)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("s3fs"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(MissingExtraError, match=r"pip install 'luthier\[cloud\]'"):
        _read("s3://bucket/texts", cache)
