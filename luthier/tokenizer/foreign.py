"""Tokenizers made elsewhere. In: tokenizer.json, tiktoken's ranks, GPT-2's two files. Out: a tokenizer that encodes alike. Next: stages.

Only byte-level BPE is read, and only what we do in exactly the same way: anything else in a file is refused with one sentence. Foreign
tokens keep their ids. Special tokens that our layout needs and the file lacks get ids behind all others. What a post-processor adds is left
out: encoding never adds special tokens here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from luthier.errors import DataError
from luthier.tokenizer.bpe import N_BYTES, Pair
from luthier.tokenizer.files import MAX_ID, byte_characters, is_ours, read_merges
from luthier.tokenizer.parts import UNKNOWN_TEXT, Parts
from luthier.tokenizer.patterns import PATTERNS, PatternName
from luthier.tokenizer.special import N_SPARE, NAMED_SPECIALS, UNKNOWN, SpecialTokens
from luthier.tokenizer.tokenizer import Tokenizer

_CL100K = r"[^\r\n\p{L}\p{N}]?+\p{L}"
SPELLINGS: dict[str, PatternName] = {
    **{expression: name for name, expression in PATTERNS.items()},
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
    rf"'(?i:[sdmt]|ll|ve|re)|{_CL100K}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+": "gpt4",
    rf"'(?i:[sdmt]|ll|ve|re)|{_CL100K}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+": "digits",
}
"""Ways in which our split patterns are written elsewhere; each splits every text as ours does, by test.

Not among them: tiktoken's present cl100k_base, which takes all white space at the end of a text as one, newlines included.
"""
KNOWN_STRINGS: dict[str, tuple[str, ...]] = {
    "end_of_text": ("<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "[EOS]", "<|eos|>"),
    "begin_of_text": ("<|begin_of_text|>", "<|startoftext|>", "<s>", "<bos>", "[BOS]", "<|bos|>"),
    "pad": ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    "system": ("<|system|>",),
    "user": ("<|user|>", "[USER]"),
    "assistant": ("<|assistant|>", "[AI]"),
    "end_of_turn": ("<|end_of_turn|>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"),
    UNKNOWN: ("<|unknown|>", "<unk>", "[UNK]", "<|unk|>"),
}
"""Strings by which a special token's use is known; the first that a file has is taken."""


def import_tokenizer(path: Path, pattern: PatternName | None = None) -> Tokenizer:
    """Read a tokenizer from a file or a folder. `pattern` has to be given for tiktoken's files, which do not say how text is split.

    Raises: DataError naming the part that we do not have; CheckpointError for a file of ours that was altered
    """
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "vocab.bpe", "merges.txt") if (path / name).is_file()]
        if not found:
            raise DataError(f"{path}: there must be a tokenizer.json, or an encoder.json with a vocab.bpe, in the folder")
        path = found[0]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix == ".json":
        content = _json(path, data)
        if is_ours(content):
            return Tokenizer.load(path)
        if isinstance(content, dict) and "model" in content:
            return _from_tokenizer_json(path, cast("dict[str, Any]", content), pattern)
        return _from_two_files(path, _partner(path), pattern)
    if data.startswith(b"#version"):
        return _from_two_files(_partner(path), path, pattern)
    return _from_ranks(path, data, pattern)


def merges_of(tokens: Mapping[bytes, int], refuse_at: str) -> list[tuple[bytes, bytes]]:
    """Find the two entries of which each longer one is merged when lower ranks merge first, in the order of ranks.

    Raises: DataError for an entry that cannot be reached by merging two
    """
    merges: list[tuple[bytes, bytes]] = []
    for token, rank in sorted(tokens.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _merged_below(token, tokens, rank)
            if len(parts) != 2:
                raise DataError(f"{refuse_at}: entry {rank} ({token!r}) must be two earlier entries joined, it is {len(parts)}")
            merges.append((parts[0], parts[1]))
    return merges


def _merged_below(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """Merge a token's bytes, lowest rank first, with ranks below its own only."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        rank, position = min((ranks.get(left + right, limit), i) for i, (left, right) in enumerate(pairwise(parts)))
        if rank >= limit:
            break
        parts[position : position + 2] = [parts[position] + parts[position + 1]]
    return parts


def _from_tokenizer_json(path: Path, content: dict[str, Any], pattern: PatternName | None) -> Tokenizer:
    try:
        found = _pattern_of(path, content)
        _check_parts(path, content)
        model: Any = content["model"]
        vocab: dict[str, int] = model["vocab"]
        merges = read_merges(model["merges"], byte_characters(), _refusing(path))
        added: list[Any] = content.get("added_tokens") or []
        specials = {token["content"]: token["id"] for token in added if token["special"]}
        extras = sorted((token["id"], token["content"]) for token in added if not token["special"])
        entries = [*byte_characters(), *(pair for pair in _merged_strings(merges))]
        missing = next((entry for entry in entries if entry not in vocab), None)
        if missing is not None:
            raise DataError(f"{path}: every byte and every merge must be in model.vocab, {missing!r} is not")
        known = {*entries, *specials, *(string for _, string in extras)}
        unreached = next((entry for entry in vocab if entry not in known), None)
        if unreached is not None:
            raise DataError(f"{path}: each entry of model.vocab must be a byte, a merge or an added token, {unreached!r} is none")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a tokenizer.json of byte-level BPE: {error!r}") from error
    if pattern is not None and pattern != found:
        raise DataError(f"{path}: the file itself says that its pattern is {found}, not {pattern}")
    ids = [*(vocab[entry] for entry in entries), *(token for token, _ in extras)]
    return _assemble(path, merges, ids, [string for _, string in extras], found, specials)


def _check_parts(path: Path, content: dict[str, Any]) -> None:
    """Refuse what would make a text other tokens than ours.

    Raises: DataError
    """
    model = content["model"]
    wrong: list[str] = []
    if model.get("type", "BPE") != "BPE":
        wrong.append(f"its model must be BPE, not {model.get('type')}")
    for key in ("normalizer", "truncation"):
        if content.get(key) not in (None, {"type": "Sequence", "normalizers": []}):
            wrong.append(f"there must be no {key}, but it has one ({_type(content[key])})")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            wrong.append(f"model.{key} must not be set, it is {model[key]!r}")
    added: list[Any] = content.get("added_tokens") or []
    for token in added:
        flag = next((name for name in ("single_word", "lstrip", "rstrip") if token.get(name)), None)
        if flag is not None:
            wrong.append(f"added tokens must be found anywhere and stand for themselves, {token['content']!r} has {flag}")
    if wrong:
        raise DataError(f"{path}: this tokenizer cannot be imported: {'; '.join(wrong[:3])}")


def _pattern_of(path: Path, content: dict[str, Any]) -> PatternName:
    """Read which of our patterns a pre-tokenizer splits by."""
    given: Any = content.get("pre_tokenizer") or {"type": "none"}
    steps: list[Any] = given["pretokenizers"] if given["type"] == "Sequence" else [given]
    kinds = [step["type"] for step in steps]
    if kinds[-1:] != ["ByteLevel"] or kinds[:-1] not in ([], ["Split"]):
        raise DataError(f"{path}: its pre-tokenizer must be ByteLevel, alone or behind one Split, not {', '.join(map(str, kinds))}")
    if steps[-1].get("add_prefix_space", True):
        raise DataError(f"{path}: its pre-tokenizer must not put a space before a text, and add_prefix_space does")
    if len(steps) == 1:
        if not steps[0].get("use_regex", True):
            raise DataError(f"{path}: its pre-tokenizer must split text, and this one does not")
        return "gpt2"
    if steps[1].get("use_regex", True):
        raise DataError(f"{path}: its pre-tokenizer must split text once, and this one does it twice")
    expression = steps[0]["pattern"].get("Regex")
    name = SPELLINGS.get(str(expression))
    if name is None or steps[0]["behavior"] != "Isolated" or steps[0].get("invert"):
        raise DataError(
            f"{path}: its split pattern must be one of {', '.join(PATTERNS)} in a spelling we know, got {expression!r}",
            fix="a pattern is never approximated: nothing was imported",
        )
    return name


def _from_ranks(path: Path, data: bytes, pattern: PatternName | None) -> Tokenizer:
    """Tiktoken's file: a token in base64 and its rank on each line."""
    tokens: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            encoded, rank = line.split()
            tokens[base64.b64decode(encoded, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise DataError(f"{path}: line {number} must be a token in base64 and a rank, got {line[:40]!r}") from None
    if pattern is None:
        raise DataError(
            f"{path}: a file of ranks does not say how text is split, so its pattern must be named",
            fix=f"luthier tokenizer import {path} --pattern gpt2 --to DIR (r50k_base's and p50k_base's; gpt4 is Llama 3's), then use DIR",
        )
    return _from_tokens(path, tokens, pattern)


def _from_two_files(encoder: Path, merges: Path, pattern: PatternName | None) -> Tokenizer:
    """GPT-2's two files: each entry's id, and the merges in order. Its pattern is GPT-2's."""
    try:
        vocab = _json(encoder, encoder.read_bytes())
        lines = merges.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{error}", fix="encoder.json (or vocab.json) and vocab.bpe (or merges.txt) must stand in one folder") from error
    pairs = read_merges([line for line in lines if line and not line.startswith("#version")], byte_characters(), _refusing(merges))
    entries = [*byte_characters(), *_merged_strings(pairs)]
    if not isinstance(vocab, dict) or not all(entry in vocab for entry in entries):
        raise DataError(f"{encoder}: every byte and every merge of {merges.name} must have an id in it")
    ids = cast("dict[str, int]", vocab)
    known = set(entries)
    specials = {string: token for string, token in ids.items() if string not in known}
    return _assemble(encoder, pairs, [ids[entry] for entry in entries], [], pattern or "gpt2", specials)


def _from_tokens(path: Path, tokens: dict[bytes, int], pattern: PatternName) -> Tokenizer:
    missing = next((byte for byte in range(N_BYTES) if bytes([byte]) not in tokens), None)
    if missing is not None:
        raise DataError(f"{path}: every byte must be an entry, {missing} is none")
    ranks = {bytes([byte]): byte for byte in range(N_BYTES)}
    pairs: list[Pair] = []
    for left, right in merges_of(tokens, str(path)):
        pairs.append((ranks[left], ranks[right]))
        ranks[left + right] = N_BYTES + len(pairs) - 1
    return _assemble(path, pairs, [tokens[token] for token in ranks], [], pattern, {})


def _assemble(
    path: Path, merges: Sequence[Pair], ids: Sequence[int], extras: Sequence[str], pattern: PatternName, given: Mapping[str, int]
) -> Tokenizer:
    """Put a tokenizer together, with our special tokens behind all ids where the file has none for their use."""
    strings = dict(given)
    used = [*ids, *strings.values()]
    if any(type(token) is not int or not 0 <= token < MAX_ID for token in used) or len(set(used)) < len(used):
        raise DataError(f"{path}: each entry must have an id of its own, from 0 to {MAX_ID - 1}")
    _check_order(path, merges, ids)
    names: dict[str, str] = {}
    following = max(used) + 1
    for name in (*NAMED_SPECIALS, UNKNOWN):
        found = next((string for string in KNOWN_STRINGS[name] if string in strings), None)
        if found is None and name != UNKNOWN:
            found = KNOWN_STRINGS[name][0]
            strings[found] = following
            following += 1
        if found is not None:
            names[name] = found
    unnamed = sum(string not in names.values() for string in given)
    for number in range(max(0, N_SPARE - unnamed)):
        string = f"<|spare_{number}|>"
        if string not in strings:
            strings[string] = following
            following += 1
    holes = tuple(sorted(set(range(following)) - set(ids) - set(strings.values())))
    special = SpecialTokens.named(names, strings, holes)
    parts = Parts("bpe", tuple(merges), tuple(extras), pattern, "unk", tuple(ids), special)
    _check_strings(path, parts)
    return Tokenizer(parts=parts)


def _check_order(path: Path, merges: Sequence[Pair], ids: Sequence[int]) -> None:
    """Refuse merges for which joining by pairs and joining by the joined bytes' rank, as the fast path does, could differ."""
    tokens = [bytes([byte]) for byte in range(N_BYTES)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for rank, (left, right) in enumerate(merges, N_BYTES):
        if _merged_below(tokens[rank], ranks, rank) != [tokens[left], tokens[right]]:
            raise DataError(f"{path}: merge {rank - N_BYTES} ({tokens[left]!r} {tokens[right]!r}) can never happen in its place")


def _check_strings(path: Path, parts: Parts) -> None:
    entries = {token.decode("utf-8", "replace") for token in parts.rank_bytes()[: parts.n_ranks - len(parts.extras)]} - {UNKNOWN_TEXT}
    clash = next((string for string in (*parts.extras, *parts.special.by_string) if string in entries), None)
    if clash is not None:
        raise DataError(f"{path}: the added token {clash!r} must not be an entry that merging makes, too")


def _merged_strings(merges: Sequence[Pair]) -> list[str]:
    strings = byte_characters()
    for left, right in merges:
        strings.append(strings[left] + strings[right])
    return strings[N_BYTES:]


def _json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: must be readable JSON: {error}") from error


def _partner(path: Path) -> Path:
    """The other one of GPT-2's two files."""
    for name, other in (
        ("encoder.json", "vocab.bpe"),
        ("vocab.bpe", "encoder.json"),
        ("vocab.json", "merges.txt"),
        ("merges.txt", "vocab.json"),
    ):
        if path.name.endswith(name):
            return path.with_name(path.name[: -len(name)] + other)
    raise DataError(f"{path}: must be a tokenizer.json, a file of ranks, or encoder.json beside vocab.bpe")


def _refusing(path: Path) -> Callable[[str], DataError]:
    return lambda what: DataError(f"{path}: {what}")


def _type(value: Any) -> Any:
    return cast("dict[str, Any]", value).get("type", value) if isinstance(value, dict) else value
