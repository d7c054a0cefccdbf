"""Verbs tokenizer import, show and compare. In: files, runs, text. Out: tokenizer.json, coloured tokens, tables or JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from luthier.errors import ConfigError
from luthier.runs.directory import RunDirectory
from luthier.runs.files import make_directory
from luthier.runs.registry import find_run, list_runs, runs_root
from luthier.stages.output import print_json, print_rows, print_table
from luthier.tokenizer.patterns import PatternName
from luthier.tokenizer.tokenizer import Tokenizer

MEASURED_DOCUMENTS = 2000
"""Documents of each source on which a tokenizer is measured."""
_TEXT_BYTES = 2**20
_GROUNDS = (153, 223, 183, 217, 189)
"""Pale colours of the terminal's 256, for tokens one after the other; the text on them is black."""


def import_verb(file: str, to: str, pattern: str | None, *, as_json: bool) -> None:
    """Read a foreign tokenizer and write it as tokenizer.json into a directory."""
    from luthier.tokenizer.files import expressed_otherwise
    from luthier.tokenizer.foreign import import_tokenizer

    path = Path(to) / "tokenizer.json"
    tokenizer = import_tokenizer(Path(file), pattern_named(pattern))
    make_directory(path.parent)
    tokenizer.save(path)
    added = _added_specials(tokenizer)
    said = {
        "tokenizer": str(path),
        "vocab_size": tokenizer.vocab_size,
        "pattern": tokenizer.pattern,
        "merges": len(tokenizer.merges),
        "added": added,
        "fingerprint": tokenizer.fingerprint,
        "expressed_otherwise": expressed_otherwise(tokenizer.parts),
    }
    if as_json:
        print_json(said)
        return
    rows = [("tokenizer", str(path)), ("entries", f"{tokenizer.vocab_size:,}"), ("split pattern", tokenizer.pattern)]
    rows.append(
        ("special", ", ".join(f"{string} {token}" for string, token in tokenizer.special.by_string.items() if "spare" not in string))
    )
    rows.append(("in a recipe", f'tokenizer.path="{path}"'))
    print_rows(rows)


def _added_specials(tokenizer: Tokenizer) -> list[str]:
    """The special tokens behind all entries, which an imported tokenizer did not have."""
    last = max(tokenizer.entries)
    return [string for string, token in tokenizer.special.strings if token > last]


def show_verb(text: str, named: str | None, *, as_json: bool, root: str | None) -> None:
    """Print a text cut into its tokens, in colour on a terminal."""
    from luthier.tokenizer.measures import view

    tokenizer, label, _ = tokenizer_named(named, root)
    pieces = view(tokenizer, text)
    n_bytes = sum(piece["bytes"] for piece in pieces)
    if as_json:
        print_json({"tokenizer": label, "tokens": pieces, "count": len(pieces), "bytes": n_bytes})
        return
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        print(_coloured(pieces))
    else:
        print("|".join(visible(piece["text"]) for piece in pieces))
    print(" ".join(str(piece["id"]) for piece in pieces))
    print(f"{len(pieces)} tokens, {n_bytes} bytes, {n_bytes / max(len(pieces), 1):.2f} bytes per token  ({label})")


def visible(text: str) -> str:
    """Make line ends, tabs and other control characters visible, so that text cannot move a terminal's cursor."""
    named = {"\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"}
    return "".join(named.get(c, c if c.isprintable() or c == " " else f"\\u{ord(c):04x}") for c in text)


def _coloured(pieces: Sequence[Mapping[str, Any]]) -> str:
    shown: list[str] = []
    for number, piece in enumerate(pieces):
        ground = _GROUNDS[number % len(_GROUNDS)]
        shown.append(f"\x1b[38;5;16;48;5;{ground}m{visible(piece['text'])}\x1b[0m" + "\n" * piece["text"].count("\n"))
    return "".join(shown)


def compare_verb(one: str, other: str, text: str | None, *, as_json: bool, root: str | None) -> None:
    """Print what two tokenizers do to the same text."""
    from luthier.tokenizer.measures import compare

    found = [tokenizer_named(name, root) for name in (one, other)]
    texts = _texts(text, [run for _, _, run in found if run is not None])
    said = {"tokenizers": [label for _, label, _ in found], **compare(found[0][0], found[1][0], texts)}
    if as_json:
        print_json(said)
        return
    print_table(["", "A", "B"], list(_compared(said)))
    print()
    print_table(["text", "A", "B"], [[visible(p["text"]), *("|".join(map(visible, side)) for side in p["tokens"])] for p in said["probes"]])


def _compared(said: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["tokenizer", *said["tokenizers"]]
    yield ["kind", *said["kind"]]
    yield ["entries", *(f"{size:,}" for size in said["vocab_size"])]
    yield ["entries the other has too", *(f"{said['common_entries']:,} ({share:.1%})" for share in said["common_share"])]
    yield ["entries no text gives", *(f"{count:,}" for count in said["unreachable_entries"])]
    for source, sides in said["sources"].items():
        yield [f"bytes per token, {source}", *(f"{side['bytes_per_token']:.3f}" for side in sides)]
    for name in said["splits"][0]:
        yield [
            f"tokens each, {name}",
            *(f"{side[name]['tokens_each']:.3f} ({side[name]['whole_share']:.1%} whole)" for side in said["splits"]),
        ]


def _texts(text: str | None, runs: Sequence[RunDirectory]) -> dict[str, list[str]]:
    """The text of a file, or else the validation documents of the first run that has some."""
    if text is not None:
        try:
            data = Path(text).read_bytes()[:_TEXT_BYTES]
        except OSError as error:
            raise ConfigError(f"--text {text}: cannot be read: {error.strerror}") from error
        return {Path(text).name: data.decode("utf-8", "replace").split("\n\n")}
    for run in runs:
        documents = run.stage("data")
        if documents is not None:
            return validation_texts(documents)
    raise ConfigError("tokenizer compare: there must be a text to compare on", fix="give a file with --text, or a run as one of the two")


def validation_texts(documents: Path) -> dict[str, list[str]]:
    """The first validation documents of each source."""
    from luthier.data.parquet import read_rows
    from luthier.data.shards import documents_manifest, verified_shard

    texts: dict[str, list[str]] = {}
    for shard in documents_manifest(documents)["splits"]["validation"]["shards"]:
        for row in read_rows(verified_shard(documents, shard), ["text", "source"]):
            of_source = texts.setdefault(row["source"], [])
            if len(of_source) < MEASURED_DOCUMENTS:
                of_source.append(row["text"])
    return texts


def pattern_named(pattern: str | None) -> PatternName | None:
    """Check the name of a split pattern.

    Raises: ConfigError
    """
    if pattern is not None and pattern not in get_args(PatternName):
        raise ConfigError(f"--pattern must be one of {', '.join(get_args(PatternName))}, got {pattern!r}")
    return pattern  # pyright: ignore[reportReturnType]


def tokenizer_named(named: str | None, root: str | None) -> tuple[Tokenizer, str, RunDirectory | None]:
    """Load the tokenizer of a run, or of a file or folder; without a name, that of the only run there is.

    Raises: ConfigError when it is not clear which is meant
    """
    from luthier.tokenizer.foreign import import_tokenizer

    if named is None:
        names = [str(record["name"]) for record in islice(list_runs(runs_root(root)), 20)]
        if len(names) != 1:
            there = f"there are {', '.join(names)}" if names else "there is no run"
            raise ConfigError(f"which tokenizer? {there}", fix="name a run or a file with --tokenizer")
        named = names[0]
    path = Path(named)
    if path.exists() and not (path / "run.json").is_file():
        return import_tokenizer(path), str(path), None
    run = find_run(named, runs_root(root))
    directory = run.stage("tokenizer")
    if directory is None:
        raise ConfigError(f"{run.path}: it has no tokenizer yet", fix="run its recipe first")
    return Tokenizer.load(directory / "tokenizer.json"), run.path.name, run
