"""The tokenizer's file, which is Hugging Face's tokenizer.json. In: merges and a split pattern. Out: text, and back. Next: tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from luthier.errors import CheckpointError
from luthier.tokenizer.bpe import N_BYTES, Pair
from luthier.tokenizer.patterns import PATTERNS, PatternName
from luthier.tokenizer.special import SpecialTokens


def byte_characters() -> list[str]:
    """Return the printable character that stands for each byte in the file (GPT-2's alphabet).

    Bytes that print in Latin-1 stand for themselves; the others take the characters from U+0100 on, in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(N_BYTES) if byte not in visible]
    return [chr(byte) if byte in visible else chr(0x100 + hidden.index(byte)) for byte in range(N_BYTES)]


def tokenizer_json(merges: Sequence[Pair], pattern: PatternName) -> str:
    """Return the file's text; the same merges and pattern give the same text."""
    return json.dumps(_content(merges, pattern), indent=2, ensure_ascii=False) + "\n"


def read_tokenizer_json(path: Path) -> tuple[list[Pair], PatternName]:
    """Read merges and pattern from a file that is exactly what `tokenizer_json` writes, white space aside.

    Raises: CheckpointError
    """
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, f"it must be readable JSON: {error}") from error
    try:
        expression: Any = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        lines: Any = content["model"]["merges"]
    except (KeyError, IndexError, TypeError) as error:
        raise _broken(path, f"merges and split pattern must be in it, {error} is missing or of another kind") from error
    names: list[PatternName] = [name for name, known in PATTERNS.items() if known == expression]
    if not names:
        raise _broken(path, f"its split pattern must be one of {', '.join(PATTERNS)}, got {expression!r}")
    merges = _read_merges(path, lines)
    expected = _content(merges, names[0])
    if content != expected:
        differing = _first_difference(content, expected)
        raise _broken(path, f"its parts must agree with its merges, but {differing} does not")
    return merges, names[0]


def _read_merges(path: Path, lines: Any) -> list[Pair]:
    if not isinstance(lines, list):
        raise _broken(path, "`model.merges` must be a list")
    ids = {character: byte for byte, character in enumerate(byte_characters())}
    merges: list[Pair] = []
    for number, line in enumerate(cast("list[Any]", lines)):
        parts = line.split(" ") if isinstance(line, str) else []
        if len(parts) != 2 or parts[0] not in ids or parts[1] not in ids or parts[0] + parts[1] in ids:
            raise _broken(path, f"merge {number} must join two earlier entries to a new one, got {line!r}")
        ids[parts[0] + parts[1]] = N_BYTES + number
        merges.append((ids[parts[0]], ids[parts[1]]))
    return merges


def _content(merges: Sequence[Pair], pattern: PatternName) -> dict[str, Any]:
    entries = byte_characters()
    lines: list[str] = []
    for left, right in merges:
        lines.append(f"{entries[left]} {entries[right]}")
        entries.append(entries[left] + entries[right])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    specials = SpecialTokens.starting_at(len(entries)).by_string
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, "content": string, **flags} for string, token in specials.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {entry: index for index, entry in enumerate(entries)},
            "merges": lines,
        },
    }


def _first_difference(got: Any, expected: Any) -> str:
    if not isinstance(got, dict):
        return "the whole"
    keys = [*expected, *cast("dict[str, Any]", got)]
    key = next(key for key in keys if key not in got or key not in expected or got[key] != expected[key])
    return f"`{key}`"


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a tokenizer this program wrote: {what}", fix="make it anew with `luthier tokenizer RECIPE`")
