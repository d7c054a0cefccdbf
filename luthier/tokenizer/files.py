"""The tokenizer's file, which is Hugging Face's tokenizer.json. In: a tokenizer's parts. Out: text, and back. Next: tokenizer.

`tokenizers` loads the file and encodes as we do, whatever the kind. What it has no place for (the kind, the use of each special token,
the chat template, a checksum) stands in `model.luthier`, which it passes over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from luthier.errors import CheckpointError
from luthier.tokenizer.bpe import N_BYTES, Pair
from luthier.tokenizer.jinja import jinja_template
from luthier.tokenizer.parts import NO_ID, UNCASED_CHARACTERS, UNKNOWN_TEXT, Parts, assemble, own_bytes
from luthier.tokenizer.patterns import PATTERNS, PatternName
from luthier.tokenizer.special import ChatFormat, SpecialTokens
from luthier.tokenizer.uncased import BYTE_ORDER_MARK, QUOTES, SPACES

OURS = "luthier"
MARK = "\u2581"
"""Stands in the file for the space before a word of an `uncased` tokenizer."""
MAX_ID = 2**24


def byte_characters() -> list[str]:
    """Return the printable character that stands for each byte in the file (GPT-2's alphabet).

    Bytes that print in Latin-1 stand for themselves; the others take the characters from U+0100 on, in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(N_BYTES) if byte not in visible]
    return [chr(byte) if byte in visible else chr(0x100 + hidden.index(byte)) for byte in range(N_BYTES)]


def tokenizer_json(parts: Parts) -> str:
    """Return the file's text; equal parts give equal text."""
    return json.dumps(_content(parts), indent=2, ensure_ascii=False) + "\n"


def expressed_otherwise(parts: Parts) -> list[str]:
    """Say what `tokenizers`, reading the file, does otherwise than we do; encoding text is never among it."""
    said = ["it takes the literal string of a special token in a text for that token, which here stays text"]
    if parts.special.unknown is not None:
        said.append(f"it decodes the unknown token to {parts.special.names['unknown']}, which here gives U+FFFD")
    return said


def read_tokenizer_json(path: Path) -> Parts:
    """Read a file that is exactly what `tokenizer_json` writes, white space aside.

    Raises: CheckpointError
    """
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, f"it must be readable JSON: {error}") from error
    try:
        ours: Any = content["model"].get(OURS)
        parts = _read_old(path, content) if ours is None else _read(path, content, ours)
        expected = _content(parts)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise _broken(path, f"merges and split pattern must be in it, {error} is missing or of another kind") from error
    if ours is None:
        del expected["model"][OURS]
    if content != expected:
        raise _broken(path, f"its parts must agree with its merges, but {_first_difference(content, expected)} does not")
    return parts


def is_ours(content: Any) -> bool:
    """Whether a tokenizer.json was written by this program, this version or an older one."""
    model: Any = cast("dict[str, Any]", content).get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and OURS in model


def _read_old(path: Path, content: Any) -> Parts:
    """A file of version 0.3 and before: byte-level, the default layout, nothing of ours."""
    return assemble(read_merges(content["model"]["merges"], byte_characters(), _refuse(path)), _pattern(path, content))


def _read(path: Path, content: Any, ours: Any) -> Parts:
    kind, unknown = ours["kind"], ours["unknown"]
    if kind not in ("bpe", "characters", "uncased") or unknown not in ("unk", "bytes", "drop"):
        raise _broken(path, f"its kind must be one we know, got {kind!r}, {unknown!r}")
    vocab: dict[str, int] = content["model"]["vocab"]
    added: list[dict[str, Any]] = content["added_tokens"]
    merges = read_merges(content["model"]["merges"], _byte_strings(kind), _refuse(path))
    if ours["sha256"] != _checksum(content):
        raise _broken(path, "its checksum must agree with its parts, but does not: it was altered")
    strings = {token["content"]: token["id"] for token in added if token["special"]}
    merged_strings = set(_strings(Parts(kind, tuple(merges), (), "gpt4", unknown, (), SpecialTokens.starting_at(0))))
    if kind == "bpe":
        extras = [token["content"] for token in added if not token["special"]]
        vocab = {**vocab, **{token["content"]: token["id"] for token in added}}
    else:
        extras = [entry for entry in vocab if entry not in merged_strings and entry not in strings]
    own = own_bytes(kind, unknown)
    listed = _strings(Parts(kind, tuple(merges), tuple(extras), "gpt4", unknown, (), SpecialTokens.starting_at(0)))
    ids = tuple(vocab[entry] if rank >= N_BYTES or rank in own else NO_ID for rank, entry in enumerate(listed))
    used = [token for token in [*ids, *strings.values()] if token != NO_ID]
    if any(type(token) is not int or not 0 <= token < MAX_ID for token in used) or len(set(used)) < len(used):
        raise _broken(path, "each entry must have an id of its own")
    present = set(used)
    holes = tuple(token for token in range(max(used) + 1) if token not in present)
    special = SpecialTokens.named(ours["names"], strings, holes)
    settings: dict[str, Any] = {**ours["chat"], "closed": tuple(ours["chat"]["closed"])}
    chat = ChatFormat(**settings)
    pattern: PatternName = _pattern(path, content) if kind == "bpe" else "gpt4"
    return Parts(kind, tuple(merges), tuple(extras), pattern, unknown, ids, special, chat)


def _pattern(path: Path, content: Any) -> PatternName:
    expression: Any = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    names: list[PatternName] = [name for name, known in PATTERNS.items() if known == expression]
    if not names:
        raise _broken(path, f"its split pattern must be one of {', '.join(PATTERNS)}, got {expression!r}")
    return names[0]


def read_merges(lines: Any, bytes_as: Sequence[str], refuse: Callable[[str], Exception]) -> list[Pair]:
    """Read merges, written as two entries with a space between or as a list of two, into pairs of ranks."""
    if not isinstance(lines, list):
        raise refuse("`model.merges` must be a list")
    ranks = {string: byte for byte, string in enumerate(bytes_as)}
    merges: list[Pair] = []
    for number, line in enumerate(cast("list[Any]", lines)):
        listed = cast("list[Any]", line.split(" ") if isinstance(line, str) else line if isinstance(line, list) else [])
        pair = [part for part in listed if isinstance(part, str) and part in ranks]
        if len(listed) != 2 or len(pair) != 2 or pair[0] + pair[1] in ranks:
            raise refuse(f"merge {number} must join two earlier entries to a new one, got {line!r}")
        ranks[pair[0] + pair[1]] = N_BYTES + number
        merges.append((ranks[pair[0]], ranks[pair[1]]))
    return merges


def _byte_strings(kind: str) -> list[str]:
    """The string that stands for each byte; for `uncased`, bytes that are no entry have one that no merge can name."""
    if kind == "bpe":
        return byte_characters()
    if kind == "uncased":
        return [chr(byte).replace(" ", MARK) if chr(byte) in UNCASED_CHARACTERS else f"<0x{byte:02X}>" for byte in range(N_BYTES)]
    return [f"<0x{byte:02X}>" for byte in range(N_BYTES)]


def _strings(parts: Parts) -> list[str]:
    """The string of each rank in the file."""
    entries = _byte_strings(parts.kind)
    for left, right in parts.merges:
        entries.append(entries[left] + entries[right])
    return [*entries, *parts.extras]


def _content(parts: Parts) -> dict[str, Any]:
    entries = _strings(parts)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    extras_from = parts.n_ranks - len(parts.extras) if parts.kind == "bpe" else parts.n_ranks
    added = [(token, string, True) for string, token in parts.special.strings]
    added += [(parts.ids[rank], entries[rank], False) for rank in range(extras_from, parts.n_ranks)]
    vocab = {
        entry: token for rank, (entry, token) in enumerate(zip(entries, parts.ids, strict=True)) if token != NO_ID and rank < extras_from
    }
    if parts.special.unknown is not None or sorted(token for token, _, _ in added) != [*range(len(vocab), len(vocab) + len(added))]:
        vocab |= {string: token for token, string, _ in added}  # ids that `tokenizers` would not give out by itself
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, "content": string, **flags, "special": special} for token, string, special in sorted(added)],
        "normalizer": _normalizer(parts),
        "pre_tokenizer": _pre_tokenizer(parts),
        "post_processor": None,
        "decoder": _decoder(parts),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": parts.special.names.get("unknown") if parts.kind != "bpe" and parts.unknown == "unk" else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": parts.kind == "characters" and parts.unknown == "bytes",
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [f"{entries[left]} {entries[right]}" for left, right in parts.merges],
            OURS: {
                "kind": parts.kind,
                "unknown": parts.unknown,
                "names": parts.special.names,
                "chat": {**asdict(parts.chat), "closed": list(parts.chat.closed)},
                "chat_template": jinja_template(parts.special, parts.chat),
            },
        },
    }
    content["model"][OURS]["sha256"] = _checksum(content)
    return content


def _normalizer(parts: Parts) -> dict[str, Any] | None:
    if parts.kind != "uncased":
        return None

    def put(instead: str, **pattern: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": pattern, "content": instead}

    known = "".join(f"\\x{{{ord(character):X}}}" for character in UNCASED_CHARACTERS + "".join(parts.extras))
    steps = [
        put("\n", String="\r\n"),
        *(put(straight, String=curly) for curly, straight in QUOTES.items()),
        put(" ", Regex="[" + "".join(f"\\x{{{ord(space):X}}}" for space in SPACES) + "]"),
        put("", String=BYTE_ORDER_MARK),
        {"type": "Lowercase"},
        put("" if parts.unknown == "drop" else UNKNOWN_TEXT, Regex=f"[^{known}]"),
        {"type": "Prepend", "prepend": " "},
        put(" ", Regex=r"\A  "),
        put(MARK, String=" "),
    ]
    return {"type": "Sequence", "normalizers": steps}


def _pre_tokenizer(parts: Parts) -> dict[str, Any] | None:
    if parts.kind == "characters":
        return None
    expression = PATTERNS[parts.pattern] if parts.kind == "bpe" else rf"{MARK}?[a-z]+|[\s\S]"
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]} if parts.kind == "bpe" else split


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _decoder(parts: Parts) -> dict[str, Any]:
    if parts.kind == "bpe":
        return _BYTE_LEVEL
    first = {"type": "Replace", "pattern": {"String": MARK}, "content": " "} if parts.kind == "uncased" else {"type": "ByteFallback"}
    return {"type": "Sequence", "decoders": [first, {"type": "Fuse"}]}


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of everything but itself."""
    ours = {key: value for key, value in content["model"][OURS].items() if key != "sha256"}
    rest = {**content, "model": {**content["model"], OURS: ours}}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def _first_difference(got: Any, expected: Any) -> str:
    if not isinstance(got, dict):
        return "the whole"
    keys = [*expected, *cast("dict[str, Any]", got)]
    key = next(key for key in keys if key not in got or key not in expected or got[key] != expected[key])
    return f"`{key}`"


def _refuse(path: Path) -> Callable[[str], Exception]:
    return lambda what: _broken(path, what)


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a tokenizer this program wrote: {what}", fix="make it anew with `luthier tokenizer RECIPE`")
