from __future__ import annotations

import io
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.config.data import SourceConfig
from luthier.data.reading import pieces
from luthier.data.reading.ranges import range_lines
from luthier.data.reading.sources import read_source, source_size
from luthier.data.reading.streams import lines
from luthier.data.reading.units import Unit, read_unit, units
from luthier.data.report import SourceReport
from luthier.errors import DataError

from .test_archives import _zip


def _units(path: Path | str, cache: Path, **settings: Any) -> tuple[SourceConfig, list[Unit]]:
    source = SourceConfig(path=str(path), **settings)
    return source, units(source, cache, SourceReport("x"))


def _texts(path: Path | str, cache: Path) -> list[str]:
    source, found = _units(path, cache)
    report = SourceReport("x")
    texts = [record["text"] for unit in found for record in read_unit(source, unit, cache, report)]
    assert report.bytes_read == sum(unit.size for unit in found) == source_size(source, cache)
    assert Counter(texts) == Counter(record["text"] for record in read_source(source, cache, SourceReport("x")))
    return texts


def test_units_do_not_depend_on_names_and_places(tmp_path: Path, cache: Path) -> None:
    for folder, names in (("a", "xyz"), ("b", "zxy")):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            (tmp_path / folder / f"{name}.txt").write_text(f"text {number}")
    first, second = _units(tmp_path / "a", cache)[1], _units(tmp_path / "b", cache)[1]
    assert [unit.key for unit in first] == [unit.key for unit in second]
    assert _texts(tmp_path / "a", cache) == _texts(tmp_path / "b", cache)
    assert _units(tmp_path / "a", cache, text="{title}")[1][0].key != _units(tmp_path / "b", cache, text="{title}")[1][0].key


def test_how_a_file_is_read_is_part_of_its_key(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text('{"text": "x"}')
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    assert len({_units(tmp_path / name, cache)[1][0].key for name in ("a.txt", "a.jsonl")}) == 2


def test_small_files_share_units_and_a_new_one_alters_few(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.reading.units._GROUP", 400)
    for number in range(1000):
        (tmp_path / f"{number}.txt").write_text(f"number {number:04d}")
    before = {unit.key for unit in _units(tmp_path, cache)[1]}
    assert 16 <= len(before) <= 64
    (tmp_path / "new.txt").write_text("new")
    after = {unit.key for unit in _units(tmp_path, cache)[1]}
    assert len(before - after) == len(after - before) == 1
    assert len(_texts(tmp_path, cache)) == 1001


def test_files_with_the_same_content_are_units_of_their_own(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.reading.units._SMALL", 1)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("same")
    _, found = _units(tmp_path, cache)
    assert len({unit.key for unit in found}) == 3
    assert _texts(tmp_path, cache) == ["same"] * 3


def test_units_travel_between_processes(tmp_path: Path, cache: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jsonl")
    (tmp_path / name).write_text('{"text": "x"}')
    source, found = _units(tmp_path, cache)
    source, (unit,) = pickle.loads(pickle.dumps((source, found)))
    assert list(read_unit(source, unit, cache, SourceReport("x"))) == [{"text": "x"}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_large_jsonl_is_cut_at_lines(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(pieces, "SPLIT", 10_000)
    rows = [f"{number} " + "ž" * (number * 37 % 400) for number in range(500)]
    path = tmp_path / "rows.jsonl"
    path.write_bytes("".join(json.dumps({"text": row}, ensure_ascii=False) + end for row in rows).encode())
    source, found = _units(path, cache)
    assert sum(len(unit.pieces) for unit in found) == round(path.stat().st_size / 10_000)
    assert sorted(_texts(path, cache)) == sorted(rows)
    assert [record["text"] for record in read_source(source, cache, SourceReport("x"))] == rows


def test_what_is_not_utf8_is_not_cut(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SPLIT", 100)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 100, encoding="utf-16")
    (tmp_path / "b.jsonl").write_bytes(b"\x7fELF" + b"\0\n" * 500)
    source, _ = _units(tmp_path, cache)
    report = SourceReport("x")
    assert len(list(read_source(source, cache, report))) == 100
    assert report.dropped == {"binary_file": 1}


@given(st.lists(st.binary(max_size=12), max_size=12), st.integers(1, 40), st.integers(0, 2))
def test_ranges_of_lines_are_all_lines_once(rows: list[bytes], size: int, chunk: int) -> None:
    data = b"\n".join(rows)
    found: list[tuple[int, bytes]] = []
    report = SourceReport("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.data.reading.ranges.CHUNK", (1, 5, 1000)[chunk])
        for begin in range(0, max(len(data), 1), size):
            found += range_lines(io.BytesIO(data), begin, min(begin + size, len(data)), report)
    assert found == list(lines([data], SourceReport("x")))


def test_row_groups_are_units_and_damage_to_one_leaves_the_others(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SPLIT", 5_000)
    path = tmp_path / "rows.parquet"
    texts = [f"{number} {os.urandom(20).hex()}" for number in range(1000)]
    pq.write_table(
        pa.table({"text": texts, "other": list(range(1000))}), path, row_group_size=100, compression="none", use_dictionary=False
    )
    source, found = _units(path, cache)
    assert len(found[0].pieces) == 10
    assert sorted(_texts(path, cache)) == sorted(texts)
    some, *_ = [list(read_unit(source, unit, cache, SourceReport("x"), {"text"})) for unit in found]
    assert set(some[0]) == {"text"}
    data = bytearray(path.read_bytes())
    place = data.index(texts[350].encode())
    data[place - 6_000 : place + 100] = b"\xff" * 6_100
    path.write_bytes(data)
    report = SourceReport("x")
    kept = [record["text"] for record in read_source(source, cache, report)]
    assert 700 <= len(kept) < 1000 and texts[-1] in kept and texts[0] in kept
    assert report.dropped["bad_parquet"] in (1, 2)
    assert report.places[0].file == "rows.parquet" and report.places[0].offset in (200, 256, 300, 356)


def test_members_of_a_large_zip_are_several_units(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SPLIT", 1000)
    (tmp_path / "all.zip").write_bytes(_zip({f"{number}.txt": os.urandom(100).hex().encode() for number in range(100)}))
    _, found = _units(tmp_path / "all.zip", cache)
    assert len(found[0].pieces) > 5
    assert len(set(_texts(tmp_path / "all.zip", cache))) == 100


def test_patterns(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a1.txt", "a2.log", "b.txt", "sub/a3.txt", ".a4.txt"):
        (tmp_path / name).write_text(name)
    assert sorted(_texts(tmp_path / "a*.txt", cache)) == ["a1.txt"]
    assert sorted(_texts(tmp_path / "**" / "a*.txt", cache)) == ["a1.txt", "sub/a3.txt"]
    assert sorted(_texts(tmp_path / "*.log", cache)) == ["a2.log"]
    assert sorted(_texts(tmp_path / "a*", cache)) == ["a1.txt"]
    with pytest.raises(DataError, match="no file matches this pattern"):
        _units(tmp_path / "c*.txt", cache)
    (tmp_path / "[odd].txt").write_text("odd")
    assert _texts(tmp_path / "[odd].txt", cache) == ["odd"]
