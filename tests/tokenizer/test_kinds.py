"""Every kind of tokenizer: the way back, normalisation, the same ids in `tokenizers`, later entries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from luthier.config.tokenization import TokenizerSection
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tokenizer.parts import UNCASED_CHARACTERS
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer
from tests.tokenizer.corpus import TEXTS, strings
from tests.tokenizer.kinds import EVERY, KINDS, LOSSLESS, has_literal, tokenizer_of

tokenizers = pytest.importorskip("tokenizers")
every = pytest.mark.parametrize(("kind", "layout"), EVERY)
HARD = [
    "", " ", "  ", "\n", "a\n  b", " x", "  x", "x ", "\ufeffBOM", "a\r\nb\rc", "\x00\t", "İΣΑΣ K ß", "“Quoted” it’s ‘so’", "{} {x} { }",
    "▁the", "\ufffd", "e\u0301é", "𝕏😀", "12,345.67", "DON'T", "\u2028\u00a0\u3000 wide",
]  # fmt: skip


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Our files as `tokenizers` reads them, with an entry added later to each."""
    peers = {}
    for kind, layout in EVERY:
        for later in (False, True):
            path = tmp_path_factory.mktemp("files") / "tokenizer.json"
            ours = tokenizer_of(kind, layout)
            ours = ours.with_token("ж" if ours.kind == "uncased" else "☃") if later else ours
            ours.save(path)
            peers[kind, layout, later] = (ours, tokenizers.Tokenizer.from_file(str(path)), path)
    return peers


@every
@settings(max_examples=40, deadline=None)
@given(text=strings)
def test_decoding_gives_the_normalised_text_back(kind: str, layout: str, text: str) -> None:
    ours = tokenizer_of(kind, layout)
    for given_text in (text, text + "\ud800\ufeff"):
        ids = ours.encode(given_text)
        normal = ours.normalise(given_text)
        assert ours.decode(ids) == normal
        assert ours.normalise(normal) == normal
        assert ours.encode(normal) == ids == ours.encode_readable(given_text) == ours.encode_many([given_text])[0].tolist()
        assert int(ours.byte_lengths[ids].sum()) == len(normal.encode("utf-8"))
        assert not set(ids) & (set(ours.special.by_string.values()) - {ours.special.unknown})
    if kind in LOSSLESS:
        assert ours.normalise(text) == text


@every
@pytest.mark.parametrize("later", [False, True])
def test_tokenizers_reads_the_file_and_gives_our_ids(peers: dict, kind: str, layout: str, later: bool) -> None:
    ours, peer, path = peers[kind, layout, later]
    loaded = Tokenizer.load(path)
    assert loaded.parts == ours.parts and loaded.fingerprint == ours.fingerprint
    for text in [*TEXTS, *HARD, "a☃☃ b ж☃", "ж"]:
        assert loaded.encode(text) == ours.encode(text)
        if not has_literal(ours, text):
            assert peer.encode(text).ids == ours.encode(text), text
    for string, token in ours.special.by_string.items():
        assert peer.token_to_id(string) == token


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=strings)
def test_tokenizers_gives_our_ids_for_any_text(peers: dict, kind: str, text: str) -> None:
    ours, peer, _ = peers[kind, "shared", True]
    if not has_literal(ours, text):
        assert peer.encode(text).ids == ours.encode(text)


@every
def test_a_special_tokens_literal_in_a_text_stays_text(kind: str, layout: str) -> None:
    ours = tokenizer_of(kind, layout)
    for string, token in ours.special.by_string.items():
        ids = ours.encode(f"a{string}b")
        assert token not in ids or token == ours.special.unknown
        assert ours.decode(ids) == ours.normalise(f"a{string}b")


@every
def test_lone_surrogates_are_the_replacement_character(kind: str, layout: str) -> None:
    ours = tokenizer_of(kind, layout)
    assert ours.encode("a\ud83d b") == ours.encode("a\ufffd b")


def test_an_uncased_text_is_lower_case_with_straight_quotes_and_a_space_before_it() -> None:
    ours = tokenizer_of("uncased unk")
    assert ours.normalise("“It’s” a\tCAFÉ\r\n2025") == ' "it\'s" a caf\ufffd\n2025'
    assert tokenizer_of("uncased drop").normalise("“It’s” a\tCAFÉ\ufeff") == ' "it\'s" a caf'
    assert ours.normalise("") == "" and ours.normalise(" a") == " a"


def test_an_uncased_word_is_the_same_tokens_wherever_it_stands_and_digits_stand_alone() -> None:
    ours = tokenizer_of("uncased drop")
    the = ours.encode("the")
    assert ours.encode("so the")[-len(the) :] == the and len(the) == 1
    assert ours.decode(the) == " the"
    pieces = [ours.decode([token]) for token in ours.encode("(12,345)")]
    assert pieces == [" ", "(", "1", "2", ",", "3", "4", "5", ")"]


def test_the_opening_brace_is_there_from_the_start_and_decodes_without_marks() -> None:
    ours = train_tokenizer(["no such character here"], TokenizerSection(kind="uncased"), Progress(), None)
    ids = ours.encode("f{ } {}")
    assert ours.special.unknown not in ids
    assert ours.decode(ids) == " f{ } {}"
    assert all(ours.special.unknown not in ours.encode(character) for character in UNCASED_CHARACTERS)


def test_every_distinct_character_has_an_entry_and_the_rarest_are_left_out() -> None:
    text = "".join(chr(0x4E00 + i) * (400 - i) for i in range(400))
    ours = train_tokenizer([text], TokenizerSection(kind="characters", vocab_size=340), Progress(), None)
    assert ours.vocab_size == 340 and len(ours.entries) == 340 - 24
    kept = {ours.decode([token]) for token in ours.entries}
    assert kept == {chr(0x4E00 + i) for i in range(316)}
    assert ours.encode(chr(0x4E00 + 316)) == [ours.special.unknown]
    roomy = train_tokenizer([text], TokenizerSection(kind="characters", vocab_size=4979), Progress(), None)
    assert len(roomy.entries) == 400
    bytes_too = train_tokenizer([text], TokenizerSection(kind="characters", vocab_size=340, unknown="bytes"), Progress(), None)
    rare = chr(0x4E00 + 390)
    assert len(bytes_too.encode(rare)) == 3 and bytes_too.decode(bytes_too.encode(rare)) == rare


@pytest.mark.parametrize("kind", ["characters", "uncased"])
def test_no_text_is_an_error_for_every_kind(kind: str) -> None:
    for texts in ([], [""]):
        with pytest.raises(DataError, match="text to train on"):
            train_tokenizer(texts, TokenizerSection.model_validate({"kind": kind}), Progress(), None)


@pytest.mark.parametrize("kind", ["characters", "uncased"])
def test_the_order_of_documents_does_not_matter_for_any_kind(kind: str) -> None:
    config = TokenizerSection.model_validate({"kind": kind, "vocab_size": 350})
    one, other = (train_tokenizer(texts, config, Progress(), None) for texts in (TEXTS, TEXTS[::-1]))
    assert one.fingerprint == other.fingerprint


@every
def test_a_token_added_later_moves_no_id(kind: str, layout: str) -> None:
    ours = tokenizer_of(kind, layout)
    new = "ж" if ours.kind == "uncased" else "☃"
    larger = ours.with_token(new)
    assert larger.vocab_size == ours.vocab_size + 1
    assert larger.special == ours.special and larger.parts.ids[: ours.parts.n_ranks] == ours.parts.ids
    assert ours.vocab_size in larger.encode(f"a{new}") and larger.decode(larger.encode(f"a {new}b")).endswith(f"a {new}b")
    assert larger.encode("the river rose") == ours.encode("the river rose")
    with pytest.raises(DataError, match="entry already"):
        larger.with_token(new)


def test_what_cannot_be_an_entry_is_refused() -> None:
    for kind, wrong in (
        ("uncased unk", "É"),
        ("uncased unk", "ab"),
        ("uncased drop", "▁"),
        ("uncased drop", "\ufffd"),
        ("uncased unk", ""),
    ):
        with pytest.raises(DataError, match="one character"):
            tokenizer_of(kind).with_token(wrong)
    for kind, wrong in (("uncased unk", "{"), ("bpe", "a"), ("bpe", "<|user|>"), ("characters unk", "e")):
        with pytest.raises(DataError, match="entry already"):
            tokenizer_of(kind).with_token(wrong)
    for kind, wrong in (("characters unk", "xy"), ("bpe", ""), ("bpe", "\ud800")):
        with pytest.raises(DataError):
            tokenizer_of(kind).with_token(wrong)


def test_added_texts_are_found_longest_first_before_anything_is_split() -> None:
    ours = tokenizer_of("bpe").with_token("ab").with_token("abc")
    ab, abc = ours.vocab_size - 2, ours.vocab_size - 1
    assert ours.encode("xabcab") == [*ours.encode("x"), abc, ab] == ours.encode_readable("xabcab")
    assert ours.decode(ours.encode("xabcab")) == "xabcab"
