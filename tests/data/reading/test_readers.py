from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.reading import streams
from luthier.data.reading.compression import decompressed
from luthier.data.reading.formats import kind_of
from luthier.data.reading.readers import _parse_patiently, json_lines
from luthier.data.reading.streams import blocks, decode, lines
from luthier.data.report import SourceReport
from luthier.errors import DataError

SQUEEZE: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=1),
}
ROWS = [{"title": "A", "text": 'first, "quoted"\nline'}, {"title": "B", "text": "zweite é 😀"}]
Read = Callable[..., tuple[list[dict[str, Any]], SourceReport]]


def _encoded(kind: str) -> bytes:
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if kind == "json":
        return json.dumps(ROWS, indent=1).encode()
    if kind == "csv":
        import csv

        out = io.StringIO()
        writer = csv.DictWriter(out, ["title", "text"])
        writer.writeheader()
        writer.writerows(ROWS)
        return out.getvalue().encode()
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_gives_the_same_records(tmp_path: Path, read: Read, kind: str, compression: str) -> None:
    squeeze = SQUEEZE[compression]
    path = tmp_path / f"rows.{kind}{compression}"
    path.write_bytes(squeeze(_encoded(kind)))
    records, report = read(path)
    assert records == ROWS
    assert report.records == 2
    assert not report.dropped
    assert report.bytes_read == path.stat().st_size


def test_text_files_are_documents_titled_by_their_names(tmp_path: Path, read: Read) -> None:
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "z.md").write_text("# zed")
    (folder / "a.txt").write_text("alpha")
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    (folder / "program.txt").write_bytes(b"\x7fELF\0\1\2")
    (folder / ".hidden.txt").write_text("no")
    (folder / "empty.txt").write_text("")
    os.mkfifo(folder / "pipe.txt")
    records, report = read(folder)
    assert records == [{"title": "a", "text": "alpha"}, {"title": "z", "text": "# zed"}]
    assert report.dropped == {"unknown_type": 1, "binary_file": 1, "hidden_file": 1, "not_a_file": 1, "empty_file": 1}


def test_a_single_file_of_unknown_type_is_read_as_text(tmp_path: Path, read: Read) -> None:
    (tmp_path / "README").write_text("hello")
    assert read(tmp_path / "README")[0] == [{"title": "README", "text": "hello"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv"])
def test_marks_of_encodings_are_understood(tmp_path: Path, read: Read, encoding: str, suffix: str) -> None:
    """D1."""
    text = {"txt": "žluťoučký 😀", "jsonl": '{"text": "žluťoučký 😀"}\n', "csv": "text\nžluťoučký 😀\n"}[suffix]
    (tmp_path / f"f.{suffix}").write_bytes(text.encode(encoding))
    records, report = read(tmp_path / f"f.{suffix}")
    assert [record["text"] for record in records] == ["žluťoučký 😀"]
    assert not report.dropped and not report.repaired


def test_invalid_bytes_are_replaced_and_counted(tmp_path: Path, read: Read) -> None:
    """D1."""
    (tmp_path / "f.txt").write_bytes(b"good \xff\xfe\xfd bad" + b" text" * 10)
    records, report = read(tmp_path / "f.txt")
    assert records[0]["text"].startswith("good \ufffd\ufffd\ufffd bad")
    assert report.repaired == {"invalid_utf8": 1}


def test_utf16_without_a_mark_is_binary(tmp_path: Path, read: Read) -> None:
    (tmp_path / "f.txt").write_bytes("plain".encode("utf-16-le"))
    assert read(tmp_path / "f.txt")[1].dropped == {"binary_file": 1}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4), st.booleans())
def test_both_parsers_give_the_same(value: dict[str, Any], ascii_only: bool) -> None:
    row = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    (record,) = json_lines([(0, row)], SourceReport("x"))
    patient = _parse_patiently(decode(row, SourceReport("x")), SourceReport("x"), 0)
    assert patient is not None and repr(record) == repr(patient[0])


@given(st.binary(min_size=1, max_size=30))
def test_any_bytes_are_a_record_or_counted(row: bytes) -> None:
    report = SourceReport("x")
    given = len(list(json_lines([(0, row)], report)))
    assert given + report.dropped.total() == (0 if row.isspace() else 1)


def test_broken_lines_do_not_end_a_file(tmp_path: Path, read: Read) -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    rows = [b'{"text": "a"}', b'{"text": ', b"", b"   ", b"17", b'"just text"', b'{"text": "\\ud83d lone"}', b'{"text": "\xff"}', deep]
    (tmp_path / "f.jsonl").write_bytes(b"\r\n".join(rows) + b"\n" + b'{"text": "last"}')
    records, report = read(tmp_path / "f.jsonl")
    assert [record["text"] for record in records] == ["a", "just text", "\ufffd lone", "\ufffd", "last"]
    assert report.dropped == {"bad_json": 2, "not_a_record": 1}
    assert report.repaired == {"lone_surrogate": 1, "invalid_utf8": 1}


@pytest.mark.parametrize(
    ("value", "records"),
    [
        ({"Music": {"e": "m"}, "Art": {"title": "Arts", "e": "a"}}, [{"title": "Music", "e": "m"}, {"title": "Arts", "e": "a"}]),
        ({"version": 1, "data": [{"text": "a"}, {"text": "b"}]}, [{"text": "a"}, {"text": "b"}]),
        ({"text": "only", "n": 1}, [{"text": "only", "n": 1}]),
        (["a", {"text": "b"}, 3], [{"text": "a"}, {"text": "b"}]),
        ("just text", [{"text": "just text"}]),
        ([], []),
    ],
)
def test_json_files_unfold(tmp_path: Path, read: Read, value: Any, records: list[Any]) -> None:
    (tmp_path / "f.json").write_text(json.dumps(value))
    assert read(tmp_path / "f.json")[0] == records


def test_json_lines_in_a_json_file_are_taken(tmp_path: Path, read: Read) -> None:
    (tmp_path / "f.json").write_bytes(_encoded("jsonl"))
    assert read(tmp_path / "f.json")[0] == ROWS


def test_broken_json_and_parquet_files_are_counted(tmp_path: Path, read: Read) -> None:
    """D1."""
    (tmp_path / "a.json").write_text('[{"text": "a"}, ')
    (tmp_path / "b.parquet").write_bytes(_encoded("parquet")[:-20])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not really")
    records, report = read(tmp_path)
    assert records == []
    assert report.dropped == {"bad_json": 1, "bad_parquet": 2}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_dialects(tmp_path: Path, read: Read, delimiter: str, newline: str) -> None:
    rows = [["id", "text"], ["1", '"one\n\ntwo"'], ["2", "x"], ["3"], ["4", "x", "too many"]]
    (tmp_path / "f.csv").write_bytes(newline.join(delimiter.join(row) for row in rows).encode())
    records, report = read(tmp_path / "f.csv")
    assert records == [{"id": "1", "text": "one\n\ntwo"}, {"id": "2", "text": "x"}, {"id": "3"}]
    assert report.dropped == {"bad_csv": 1}


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_a_truncated_archive_gives_what_was_readable(tmp_path: Path, read: Read, suffix: str) -> None:
    import random

    rng = random.Random(1)
    data = b"".join(json.dumps({"text": str(rng.random())}).encode() + b"\n" for _ in range(30_000))
    squeeze = SQUEEZE[suffix]
    (tmp_path / f"f.jsonl{suffix}").write_bytes(squeeze(data)[:-5000])
    records, report = read(tmp_path / f"f.jsonl{suffix}")
    assert 10_000 < len(records) < 30_000
    assert report.dropped["truncated_file"] == 1
    assert report.dropped["bad_json"] <= 1


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_damage_inside_an_archive_is_counted(suffix: str) -> None:
    squeeze = SQUEEZE[suffix]
    report = SourceReport("x")
    assert b"".join(decompressed([squeeze(b"whole") + b"garbage" * 9], suffix, report)) == b"whole"
    assert report.dropped == {"corrupt_file": 1}


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_several_members_are_one_stream(suffix: str) -> None:
    squeeze = SQUEEZE[suffix]
    report = SourceReport("x")
    assert b"".join(decompressed([squeeze(b"one ") + squeeze(b"two")], suffix, report)) == b"one two"
    assert not report.dropped


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_a_bomb_is_stopped(suffix: str) -> None:
    """D6."""
    data = b"\0" * 2**27
    squeeze = SQUEEZE[suffix]
    report = SourceReport("x")
    assert sum(len(piece) for piece in decompressed([squeeze(data)], suffix, report)) < len(data)
    assert report.dropped == {"decompression_bomb": 1}


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 7))
def test_lines_do_not_depend_on_chunks(pieces: list[bytes], size: int) -> None:
    data = b"\n".join(pieces)
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    expected = [line for row in data.split(b"\n") if (line := row.rstrip(b"\r"))]
    found = list(lines(chunks, SourceReport("x")))
    assert [line for _, line in found] == expected
    assert all(data[offset:].startswith(line) for offset, line in found)


def test_a_line_above_the_cap_is_left_out() -> None:
    report = SourceReport("x")
    assert list(lines([b"short\n" + b"x" * 50, b"y" * 60 + b"\nnext"], report, cap=100)) == [(0, b"short"), (117, b"next")]
    assert report.dropped == {"line_too_long": 1}


@given(st.text(alphabet="aé😀 \n", max_size=200), st.integers(8, 40))
def test_blocks_lose_nothing_and_keep_characters_whole(text: str, size: int) -> None:
    parts = list(blocks([text.encode()], size))
    assert "".join(part.decode("utf-8") for part in parts) == text
    assert all(len(part) <= size for part in parts)


def test_ten_million_blank_lines_and_a_long_line_end(tmp_path: Path, read: Read) -> None:
    """D1."""
    (tmp_path / "a.jsonl").write_bytes(b"\n" * 10_000_000 + b'{"text": "end"}')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "' + b"x" * 20_000_000 + b'"}')
    records, _ = read(tmp_path)
    assert [len(record["text"]) for record in records] == [3, 20_000_000]


def test_a_large_text_file_is_read_in_blocks(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.blocks, "__defaults__", (1000,))
    (tmp_path / "f.txt").write_text("some words and\n" * 1000)
    records, _ = read(tmp_path / "f.txt")
    assert len(records) > 10
    assert "".join(record["text"] for record in records) == "some words and\n" * 1000


def test_kinds_of_names() -> None:
    assert kind_of("a/B.JSONL.GZ") == ("jsonl", ".gz")
    assert kind_of("x.tar.gz") == kind_of("x.tgz") == ("tar", ".gz")
    assert kind_of("noext") == (None, "")


def test_a_missing_path_names_the_nearest(tmp_path: Path, read: Read) -> None:
    (tmp_path / "stories.txt").write_text("x")
    with pytest.raises(DataError, match=r"there is no such file or folder\n  did you mean .*stories\.txt\?") as raised:
        read(tmp_path / "storys.txt")
    assert raised.value.exit_code == 2


def test_forbidden_files_are_counted_and_forbidden_roots_refused(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    real = builtins.open

    def guarded(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith("a.txt"):
            raise PermissionError(13, "denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", guarded)
    records, report = read(tmp_path)
    assert [record["text"] for record in records] == ["b"]
    assert report.dropped == {"unreadable_file": 1}
    with pytest.raises(DataError, match="no permission to read"):
        read(tmp_path / "a.txt")


def test_a_stream_is_refused(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither"):
        read(tmp_path / "pipe")
