"""Records of one file by its kind. In: chunks of bytes. Out: dicts of fields. Next: sources.

One bad line or file is counted in the report and never ends a source. Everything but `.json` streams.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import orjson

from luthier.data.reading.formats import CSV, HTML, JSON, JSON_LINES, PARQUET, title_of
from luthier.data.reading.html import html_records
from luthier.data.reading.streams import LINE_CAP, UnreadableFile, as_utf8, blocks, decode, lines
from luthier.data.reading.tables import spilled_rows
from luthier.data.report import SourceReport

Record = dict[str, Any]

JSON_CAP = 2**30
_FIELD_CAP = 2**26
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_records(name: str, kind: str, chunks: Iterable[bytes], report: SourceReport) -> Iterator[Record]:
    """Read the records of one file, or one member of an archive, from its decompressed bytes.

    Raises: UnreadableFile when nothing in it can be read.
    """
    report.line = 0
    if kind == PARQUET:
        yield from spilled_rows(chunks, report)
    elif kind == JSON_LINES:
        yield from json_lines(lines(as_utf8(chunks, report), report), report)
    elif kind == JSON:
        yield from _json_file(chunks, report)
    elif kind == CSV:
        yield from _csv_rows(as_utf8(chunks, report), report)
    elif kind == HTML:
        yield from html_records(name, chunks, report)
    else:
        yield from _text_blocks(title_of(name), as_utf8(chunks, report), report)


def _text_blocks(title: str, chunks: Iterable[bytes], report: SourceReport) -> Iterator[Record]:
    offset = 0
    for block in blocks(chunks):
        if offset:
            report.repair("cut_into_blocks", offset=offset)
        yield {"title": title, "text": decode(block, report, offset)}
        offset += len(block)


def json_lines(rows: Iterable[tuple[int, bytes]], report: SourceReport) -> Iterator[Record]:
    """Read one record from each line; a line comes with its offset."""
    for offset, row in rows:
        if not row.isspace():
            value = _parse(row, report, offset)
            if value is not None and (record := _as_record(value[0], report, offset)) is not None:
                yield record


def _parse(data: bytes, report: SourceReport, offset: int = 0) -> tuple[Any] | None:
    """Parse JSON into a 1-tuple (so that null is a value), or count it as broken.

    What the fast parser refuses, such as NaN, half a surrogate pair or invalid UTF-8, the standard one gets to see.
    """
    try:
        return (orjson.loads(data),)
    except orjson.JSONDecodeError:
        return _parse_patiently(decode(data, report, offset), report, offset)


def _parse_patiently(text: str, report: SourceReport, offset: int) -> tuple[Any] | None:
    try:
        value = json.loads(text)
        if "\\u" in text and _SURROGATE.search(plain := json.dumps(value, ensure_ascii=False)):
            report.repair("lone_surrogate", offset=offset)
            value = json.loads(_SURROGATE.sub("\ufffd", plain))
    except (ValueError, RecursionError):
        report.drop("bad_json", offset=offset)
        return None
    return (value,)


def _as_record(value: Any, report: SourceReport, offset: int = 0) -> Record | None:
    if isinstance(value, dict):
        return cast(Record, value)
    if isinstance(value, str):
        return {"text": value}
    report.drop("not_a_record", offset=offset)
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
        yield from json_lines(lines((bytes(data),), report), report)
        return
    if not (parsed := _parse(bytes(data), report)):
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
    source = _CsvLines(chunks, report)
    rows = iter(source)
    head = next(rows, "")
    delimiter = max(",;\t|", key=head.count)
    reader = csv.reader(itertools.chain((head,), rows), delimiter=delimiter)
    names: list[str] | None = None
    while True:
        begin, line = source.offset, source.line + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            report.drop("bad_csv", offset=begin)
            continue
        if names is None:
            names = [name.strip() for name in row]
        elif len(row) > len(names):
            report.drop("bad_csv", offset=begin)
        elif row:
            report.line = line
            yield dict(zip(names, row, strict=False))


class _CsvLines:
    """Lines that keep their ends, empty ones too: a quoted field may hold them. `offset` is where the next begins, `line` counts them."""

    def __init__(self, chunks: Iterable[bytes], report: SourceReport) -> None:
        self.offset = self.line = 0
        self._chunks, self._report = chunks, report

    def __iter__(self) -> Iterator[str]:
        pending: list[bytes] = []
        size = 0
        for chunk in self._chunks:
            pieces = chunk.splitlines(keepends=True)
            for index, piece in enumerate(pieces):
                pending.append(piece)
                size += len(piece)
                ends = piece.endswith(b"\n") or (piece.endswith(b"\r") and index + 1 < len(pieces))
                if ends or size > LINE_CAP:
                    yield self._line(pending, size)
                    pending, size = [], 0
        if pending:
            yield self._line(pending, size)

    def _line(self, pending: list[bytes], size: int) -> str:
        begin, self.offset, self.line = self.offset, self.offset + size, self.line + 1
        return decode(b"".join(pending), self._report, begin)
