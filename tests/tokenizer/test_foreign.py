"""Tokenizers made elsewhere: the same ids as there, or a refusal."""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex
import tiktoken
from hypothesis import given, settings

from luthier.errors import CheckpointError, DataError
from luthier.tokenizer.backend import count_pretokens
from luthier.tokenizer.bpe import train_merges
from luthier.tokenizer.files import byte_characters
from luthier.tokenizer.foreign import SPELLINGS, import_tokenizer
from luthier.tokenizer.patterns import PATTERNS, Splitter
from luthier.tokenizer.special import SPECIAL_STRINGS
from luthier.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.corpus import ENGLISH, TEXTS, strings
from tests.tokenizer.corpus import tokenizer as trained

tokenizers = pytest.importorskip("tokenizers")
SPLIT_THEN_BYTES = [
    {"type": "Split", "pattern": {"Regex": PATTERNS["gpt4"]}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
]


def peer_file(path: Path, pattern: str = "gpt2") -> Path:
    """A tokenizer.json as `tokenizers` trains it: its special tokens first, bytes in the order of their characters."""
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
    if pattern != "gpt2":
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated")  # type: ignore[index]
        byte_level = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    peer.pre_tokenizer = byte_level
    peer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=480,
        initial_alphabet=alphabet,
        show_progress=False,
        special_tokens=["<|begin_of_text|>", "<|endoftext|>", "[PAD]", "<odd>"],
    )
    peer.train_from_iterator(ENGLISH * 3 + TEXTS, trainer)
    peer.save(str(path))
    return path


def shuffled_vocabulary() -> tuple[dict[bytes, int], list[tuple[bytes, bytes]]]:
    """Tokens and ranks with the bytes in GPT-2's order, and the merges."""
    merges = train_merges(count_pretokens(ENGLISH * 3 + TEXTS, "gpt2", *_silent()), 150, _silent()[0])
    order = sorted(range(256), key=lambda byte: byte_characters()[byte])
    order = [byte for byte in order if byte_characters()[byte] == chr(byte)] + [b for b in order if byte_characters()[b] != chr(b)]
    tokens = [bytes([byte]) for byte in range(256)]
    joined: list[tuple[bytes, bytes]] = []
    for left, right in merges:
        joined.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    ranks = {bytes([byte]): rank for rank, byte in enumerate(order)}
    ranks |= {left + right: 256 + i for i, (left, right) in enumerate(joined)}
    return ranks, joined


def _silent() -> tuple[Any, None]:
    from luthier.runs.progress import Progress

    return Progress(), None


@pytest.fixture(scope="module", params=["gpt2", "gpt4", "digits"])
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    path = peer_file(tmp_path_factory.mktemp("peer") / "tokenizer.json", request.param)
    return import_tokenizer(path), tokenizers.Tokenizer.from_file(str(path))


@settings(max_examples=200, deadline=None)
@given(text=strings)
def test_a_peers_tokenizer_encodes_as_there(imported: tuple[Tokenizer, Any], text: str) -> None:
    ours, peer = imported
    if not any(string in text for string in ours.special.by_string):
        assert ours.encode(text) == ours.encode_readable(text) == peer.encode(text).ids
    assert ours.decode(ours.encode(text)) == text


def test_its_special_tokens_keep_their_ids_and_what_is_missing_stands_behind(imported: tuple[Tokenizer, Any]) -> None:
    ours, peer = imported
    special = ours.special
    assert (special.begin_of_text, special.end_of_text, special.pad) == (0, 1, 2)
    assert special.by_string["<odd>"] == 3 in special.spare
    assert special.end_of_text not in ours.encode("a<|endoftext|>b")
    assert min(special.system, special.user, special.assistant, special.end_of_turn) >= peer.get_vocab_size()
    assert set(range(ours.vocab_size)) == set(ours.entries) | set(special.by_string.values())


def test_what_was_imported_is_saved_loaded_and_imported_again(imported: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    ours, _ = imported
    ours.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").parts == import_tokenizer(tmp_path).parts == ours.parts
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        if not any(string in text for string in ours.special.by_string):
            assert again.encode(text).ids == ours.encode(text)


def test_a_file_of_ranks_encodes_as_tiktoken_does_whatever_the_order_of_its_bytes(tmp_path: Path) -> None:
    ranks, _ = shuffled_vocabulary()
    path = tmp_path / "some.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    ours = import_tokenizer(path, "gpt2")
    peer = tiktoken.Encoding("peer", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens={})
    assert ours.encode("!") == [ranks[b"!"]] != [33]
    for text in TEXTS:
        assert ours.encode(text) == peer.encode_ordinary(text) == ours.encode_readable(text)
    with pytest.raises(DataError, match="pattern must be named"):
        import_tokenizer(path)


def test_ranks_with_gaps_keep_them(tmp_path: Path) -> None:
    ranks, _ = shuffled_vocabulary()
    ranks = {token: rank + 7 * (rank > 300) for token, rank in ranks.items()}
    path = tmp_path / "some.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    ours = import_tokenizer(path, "gpt2")
    peer = tiktoken.Encoding("peer", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens={})
    assert [ours.encode(text) for text in TEXTS] == [peer.encode_ordinary(text) for text in TEXTS]
    assert set(range(301, 308)) <= set(ours.special.spare)


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"), ("x_encoder.json", "x_vocab.bpe")])
def test_an_encoder_and_its_merges_are_read_from_either_file(tmp_path: Path, names: tuple[str, str]) -> None:
    ranks, joined = shuffled_vocabulary()
    characters = byte_characters()

    def written(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    vocab = {written(token): rank for token, rank in ranks.items()} | {"<|endoftext|>": len(ranks)}
    (tmp_path / names[0]).write_text(json.dumps(vocab), "utf-8")
    (tmp_path / names[1]).write_text("#version: 0.2\n" + "".join(f"{written(a)} {written(b)}\n" for a, b in joined), "utf-8")
    one, other = (import_tokenizer(tmp_path / name) for name in names)
    peer = tiktoken.Encoding("peer", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens={})
    assert one.parts == other.parts and one.special.end_of_text == len(ranks)
    assert [one.encode(text) for text in TEXTS] == [peer.encode_ordinary(text) for text in TEXTS]


def test_merges_written_as_lists_and_whole_words_first_are_read(tmp_path: Path) -> None:
    path = peer_file(tmp_path / "tokenizer.json", "gpt4")
    expected = import_tokenizer(path)
    content = json.loads(path.read_text("utf-8"))
    content["model"]["merges"] = [line if isinstance(line, list) else line.split(" ") for line in content["model"]["merges"]]
    content["model"]["ignore_merges"] = True
    path.write_text(json.dumps(content), "utf-8")
    assert import_tokenizer(path).parts == expected.parts
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content), "utf-8")
    assert import_tokenizer(path).parts == expected.parts


def test_added_tokens_that_are_not_special_are_found_in_text_as_there(tmp_path: Path) -> None:
    path = peer_file(tmp_path / "tokenizer.json")
    peer = tokenizers.Tokenizer.from_file(str(path))
    peer.add_tokens([tokenizers.AddedToken("the river", normalized=False), tokenizers.AddedToken("the riv", normalized=False)])
    peer.save(str(path))
    ours = import_tokenizer(path)
    for text in ("in the river the", "the rivals", "xthe river's", "the"):
        assert ours.encode(text) == peer.encode(text).ids == ours.encode_readable(text)


def _split_by(changes: dict[str, Any], *, twice: bool = False) -> dict[str, Any]:
    """A pre-tokenizer as one would write it, with changes to its split."""
    split, byte_level = SPLIT_THEN_BYTES
    return {"type": "Sequence", "pretokenizers": [{**split, **changes}, {**byte_level, "use_regex": twice}]}


def _set(new: Any, *keys: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = new

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set({"type": "NFC"}, "normalizer"), "normalizer.*NFC"),
        (_set({"max_length": 5}, "truncation"), "truncation"),
        (_set("Unigram", "model", "type"), "BPE, not Unigram"),
        (_set(0.1, "model", "dropout"), "dropout"),
        (_set("##", "model", "continuing_subword_prefix"), "continuing_subword_prefix"),
        (_set("</w>", "model", "end_of_word_suffix"), "end_of_word_suffix"),
        (_set(True, "model", "byte_fallback"), "byte_fallback"),
        (_set(True, "added_tokens", 0, "lstrip"), "lstrip"),
        (_set({"type": "Whitespace"}, "pre_tokenizer"), "Whitespace"),
        (_set(None, "pre_tokenizer"), "none"),
        (_set(True, "pre_tokenizer", "add_prefix_space"), "add_prefix_space"),
        (_set(False, "pre_tokenizer", "use_regex"), "must split text"),
        (_set(_split_by({"pattern": {"Regex": r"\w+"}}), "pre_tokenizer"), "split pattern"),
        (_set(_split_by({"pattern": {"String": " "}}), "pre_tokenizer"), "split pattern"),
        (_set(_split_by({"behavior": "Removed"}), "pre_tokenizer"), "split pattern"),
        (_set(_split_by({}, twice=True), "pre_tokenizer"), "twice"),
        (_set(9999, "model", "vocab", "notmerged"), "notmerged"),
        (_set(5, "model", "vocab", "a"), "id of its own"),
        (_set("x", "model", "vocab", "a"), "id of its own"),
        (_set(["a", "b", "c"], "model", "merges", 0), "merge 0"),
        (_set({}, "model", "vocab"), "must be in model.vocab"),
        (_set([], "model"), "not a tokenizer.json"),
    ],
)
def test_what_we_do_not_have_is_refused_and_never_approximated(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    path = peer_file(tmp_path / "tokenizer.json")
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(DataError, match=words):
        import_tokenizer(path)


def test_merges_that_ranks_would_do_otherwise_are_refused(tmp_path: Path) -> None:
    """Joining `ab` and `c` cannot come after `bc`: text never leaves them side by side."""
    path = peer_file(tmp_path / "tokenizer.json")
    content = json.loads(path.read_text("utf-8"))
    entries = [*byte_characters(), "bc", "ab", "abc"]
    content["model"]["vocab"] = {entry: i for i, entry in enumerate(entries)}
    content["model"]["merges"] = ["b c", "a b", "ab c"]
    content["added_tokens"] = []
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(DataError, match="never happen"):
        import_tokenizer(path)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"{", b"\xff", b"YQ== 0\n", b"not base64! 3\n", b"YQ== x\n", b"#version: 0.2\nq"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("t.json", "t.tiktoken", "vocab.bpe", "t"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError):
            import_tokenizer(tmp_path / name, "gpt4")
    with pytest.raises(DataError):
        import_tokenizer(tmp_path / "missing.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="folder"):
        import_tokenizer(tmp_path / "empty")


def test_a_file_of_ours_that_was_altered_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    trained().save(path)
    path.write_text(path.read_text("utf-8").replace("Isolated", "Removed"), "utf-8")
    with pytest.raises(CheckpointError):
        import_tokenizer(path)


def test_ranks_that_merging_cannot_reach_are_refused(tmp_path: Path) -> None:
    lines = [(bytes([byte]), byte) for byte in range(256)] + [(b"abc", 256)]
    (tmp_path / "t.tiktoken").write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in lines))
    with pytest.raises(DataError, match="two earlier entries"):
        import_tokenizer(tmp_path / "t.tiktoken", "gpt4")


@pytest.mark.parametrize("spelling", SPELLINGS, ids=range(len(SPELLINGS)))
def test_other_spellings_of_a_pattern_split_every_text_alike(spelling: str) -> None:
    chance = random.Random(3)
    letters = [chr(c) for c in range(0x3000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    pieces = ["'s", "'LL", "'re", "'ſ", " ", "  ", "\n", "\r\n", "\t", "a", "Zb", "1", "234", "!?", "\u00a0", "\x0c", "'", "é", "中", "٣"]
    theirs, ours = regex.compile(spelling), Splitter(SPELLINGS[spelling])
    for _ in range(3000):
        text = "".join(chance.choice(pieces) if chance.random() < 0.8 else chance.choice(letters) for _ in range(chance.randint(1, 14)))
        assert theirs.findall(text) == ours.split(text), text
    for text in TEXTS:
        if text.isascii():
            assert theirs.findall(text) == ours.split(text)


def test_special_strings_of_ours_in_a_foreign_text_stay_text(imported: tuple[Tokenizer, Any]) -> None:
    ours, _ = imported
    for string in SPECIAL_STRINGS:
        assert ours.decode(ours.encode(string)) == string
