"""Planted faults: each is counted with its place, none ends a source (D1, D6)."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from luthier.config.data import SourceConfig
from luthier.data.reading.sources import read_source
from luthier.data.report import SourceReport

from .test_archives import _zip

Read = Callable[..., tuple[list[dict[str, Any]], SourceReport]]

ROWS = b"".join(b'{"text": "row %d %s"}\n' % (number, random.Random(number).randbytes(20).hex().encode()) for number in range(20_000))
SQUEEZE: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=1),
}
LONG = 100_000_000


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    noise = random.Random(1)
    for number in range(50):
        (folder / f"binary{number:02d}.txt").write_bytes(b"\x7fELF" + noise.randbytes(2000))
    (folder / "empty.txt").write_bytes(b"")
    (folder / "invalid.txt").write_bytes(b"good text \xff\xfe and more of it" * 9)
    (folder / "line.jsonl").write_bytes(b'{"text": "' + b"x" * LONG + b'"}\n{"text": "after the line"}\n')
    (folder / "lines.jsonl").write_bytes(b'{"text": "fine"}\n{"text": \n"\\ud83d alone"\n[1]\n')
    (folder / "utf16.txt").write_bytes("sixteen bits".encode("utf-16"))
    (folder / "bomb.zip").write_bytes(_zip({"bomb.txt": b"\n" * 2**27}))
    for suffix, squeeze in SQUEEZE.items():
        data = squeeze(ROWS)
        (folder / f"cut.jsonl{suffix}").write_bytes(data[: len(data) * 3 // 5])
        (folder / f"torn.jsonl{suffix}").write_bytes(data[: len(data) * 3 // 5] + noise.randbytes(50_000))
    return folder


def test_all_planted_faults_are_counted(planted: Path, read: Read) -> None:
    records, report = read(planted)
    texts = {record["text"] for record in records}
    assert {"after the line", "fine", "\ufffd alone", "sixteen bits"} <= texts
    assert sum(text.startswith("row ") for text in texts) > 10_000
    counts = dict(report.dropped)
    assert 2 <= counts.pop("bad_json") < 100
    assert 6 <= counts.pop("truncated_file") + counts.pop("corrupt_file") <= 8
    assert counts == {"binary_file": 50, "empty_file": 1, "line_too_long": 1, "not_a_record": 1, "decompression_bomb": 1}
    assert report.repaired.keys() == {"invalid_utf8", "lone_surrogate", "cut_into_blocks"}


def test_places_name_file_and_offset(planted: Path, read: Read) -> None:
    _, report = read(planted)
    places = {(place.reason, place.file): place.offset for place in report.places}
    assert places["line_too_long", "line.jsonl"] == 0
    assert places["invalid_utf8", "invalid.txt"] == 10
    assert places["bad_json", "lines.jsonl"] == 17
    assert places["lone_surrogate", "lines.jsonl"] == 27
    assert places["not_a_record", "lines.jsonl"] == 42
    assert places["truncated_file", "cut.jsonl.gz"] == (planted / "cut.jsonl.gz").stat().st_size
    assert ("decompression_bomb", "bomb.zip: bomb.txt") in places
    torn = places["corrupt_file", "torn.jsonl.zst"]
    assert torn - len(SQUEEZE[".zst"](ROWS)) * 3 // 5 + 8192 * 2 > 0
    assert len([place for place in report.places if place.reason == "binary_file"]) == 5
    assert report.counts()["places"][0].keys() == {"reason", "file", "offset"}


def test_memory_stays_bounded(planted: Path, tmp_path: Path) -> None:
    report = SourceReport("x")
    tracemalloc.start()
    for name in ("line.jsonl", "bomb.zip", "cut.jsonl.xz"):
        for _ in read_source(SourceConfig(path=str(planted / name)), tmp_path, report):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250e6


def test_a_line_without_end_is_cut_into_blocks(tmp_path: Path, read: Read) -> None:
    """D1."""
    (tmp_path / "one.txt").write_bytes("ž".encode() * 25_000_000)
    records, report = read(tmp_path / "one.txt")
    assert "".join(record["text"] for record in records) == "ž" * 25_000_000
    assert report.repaired == {"cut_into_blocks": 2}
