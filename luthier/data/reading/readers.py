"""Records of one file by its kind. In: chunks of bytes. Out: dicts of fields. Next: sources.

One bad line or file is counted in the report and never ends a source. Everything but `.json` streams.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO, Any, cast

from luthier.data.reading.streams import LINE_CAP, UnreadableFile, as_utf8, blocks, decode, lines
from luthier.data.report import SourceReport

Record = dict[str, Any]

TEXT, JSON_LINES, JSON, CSV, PARQUET = "text", "jsonl", "json", "csv", "parquet"
KINDS = {
    ".txt": TEXT,
    ".text": TEXT,
    ".md": TEXT,
    ".markdown": TEXT,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON,
    ".csv": CSV,
    ".tsv": CSV,
    ".parquet": PARQUET,
}
COMPRESSED = (".gz", ".zst")
JSON_CAP = 2**30
_FIELD_CAP = 2**26
_SURROGATE = re.compile("[\ud800-\udfff]")


def kind_of(name: str) -> tuple[str | None, str]:
    """Say how a file's name is read: (kind or `None`, compression suffix or "")."""
    path = PurePosixPath(name.lower())
    compression = path.suffix if path.suffix in COMPRESSED else ""
    return KINDS.get(PurePosixPath(path.stem).suffix if compression else path.suffix), compression


def read_records(name: str, kind: str, chunks: Iterable[bytes], report: SourceReport) -> Iterator[Record]:
    """Read the records of one file from its decompressed bytes.

    Raises: UnreadableFile when nothing in it can be read.
    """
    if kind == PARQUET:
        yield from _spilled_parquet(chunks, report)
    elif kind == JSON_LINES:
        yield from _json_lines(lines(as_utf8(chunks, report), report), report)
    elif kind == JSON:
        yield from _json_file(chunks, report)
    elif kind == CSV:
        yield from _csv_rows(as_utf8(chunks, report), report)
    else:
        title = PurePosixPath(name).name.split(".")[0]
        for block in blocks(as_utf8(chunks, report)):
            yield {"title": title, "text": decode(block, report)}


def parquet_records(file: IO[bytes], size: int, report: SourceReport) -> Iterator[Record]:
    """Read the rows of an open Parquet file of `size` bytes, few at a time."""
    from luthier.data.parquet import DamagedParquet, foreign_rows

    before, share_read = report.bytes_read, 0.0
    try:
        for row, share in foreign_rows(file):
            share_read += share
            report.bytes_read = before + int(size * min(share_read, 1.0))
            yield row
    except DamagedParquet:
        report.drop("bad_parquet")
    report.bytes_read = before + size


def _spilled_parquet(chunks: Iterable[bytes], report: SourceReport) -> Iterator[Record]:
    with tempfile.TemporaryFile() as file:
        for chunk in chunks:
            file.write(chunk)
        file.seek(0)
        yield from parquet_records(file, 0, report)


def _json_lines(rows: Iterable[bytes], report: SourceReport) -> Iterator[Record]:
    for row in rows:
        if not row.isspace():
            value = _parse(decode(row, report), report)
            if value is not None and (record := _as_record(value[0], report)) is not None:
                yield record


def _parse(text: str, report: SourceReport) -> tuple[Any] | None:
    """Parse JSON into a 1-tuple (so that null is a value), or count it as broken."""
    try:
        value = json.loads(text)
        if "\\u" in text and _SURROGATE.search(plain := json.dumps(value, ensure_ascii=False)):
            report.repair("lone_surrogate")
            value = json.loads(_SURROGATE.sub("\ufffd", plain))
    except (ValueError, RecursionError):
        report.drop("bad_json")
        return None
    return (value,)


def _as_record(value: Any, report: SourceReport) -> Record | None:
    if isinstance(value, dict):
        return cast(Record, value)
    if isinstance(value, str):
        return {"text": value}
    report.drop("not_a_record")
    return None


def _json_file(chunks: Iterable[bytes], report: SourceReport) -> Iterator[Record]:
    """Read a list of records, a dict of records, a dict around one list of records, or one record; lines of JSON are taken, too."""
    data = bytearray()
    for chunk in as_utf8(chunks, report):
        data += chunk
        if len(data) > JSON_CAP:
            raise UnreadableFile("json_too_large")
    first_line = bytes(data.lstrip().split(b"\n", 1)[0])
    if len(first_line) < len(data.strip()) and _is_json(first_line):
        yield from _json_lines(lines((bytes(data),), report), report)
        return
    if not (parsed := _parse(decode(bytes(data), report), report)):
        return
    for value in _unfold(parsed[0]):
        if (record := _as_record(value, report)) is not None:
            yield record


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return True


def _unfold(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from cast(list[Any], value)
        return
    if not isinstance(value, dict):
        yield value
        return
    fields = cast(Record, value)
    lists = [cast(list[Any], part) for part in fields.values() if isinstance(part, list)]
    lists = [items for items in lists if any(isinstance(item, dict) for item in items)]
    if fields and all(isinstance(part, dict) for part in fields.values()):
        for key, part in fields.items():
            yield {"title": key, **cast(Mapping[str, Any], part)}
    elif len(lists) == 1 and not any(isinstance(fields.get(key), (str, list)) for key in ("text", "content", "messages")):
        yield from lists[0]
    else:
        yield fields


def _csv_rows(chunks: Iterable[bytes], report: SourceReport) -> Iterator[Record]:
    csv.field_size_limit(_FIELD_CAP)
    rows = iter(_csv_lines(chunks, report))
    head = next(rows, "")
    delimiter = max(",;\t|", key=head.count)
    reader = csv.reader(_chained(head, rows), delimiter=delimiter)
    names: list[str] | None = None
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            report.drop("bad_csv")
            continue
        if names is None:
            names = [name.strip() for name in row]
        elif len(row) > len(names):
            report.drop("bad_csv")
        elif row:
            yield dict(zip(names, row, strict=False))


def _chained(head: str, rows: Iterator[str]) -> Iterator[str]:
    yield head
    yield from rows


def _csv_lines(chunks: Iterable[bytes], report: SourceReport) -> Iterator[str]:
    """Cut into lines that keep their ends, empty ones too: a quoted field may hold them."""
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        pieces = chunk.splitlines(keepends=True)
        for index, piece in enumerate(pieces):
            pending.append(piece)
            size += len(piece)
            ends = piece.endswith(b"\n") or (piece.endswith(b"\r") and index + 1 < len(pieces))
            if ends or size > LINE_CAP:
                yield decode(b"".join(pending), report)
                pending, size = [], 0
    if pending:
        yield decode(b"".join(pending), report)
