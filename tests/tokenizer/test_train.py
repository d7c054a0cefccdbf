"""Training: the same result for any order, advice when there is too little text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config.tokenization import TokenizerSection
from luthier.errors import DataError
from luthier.runs.progress import Bar, Progress
from luthier.tokenizer.backend import count_pretokens
from luthier.tokenizer.measures import measure
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import select_texts, train_tokenizer
from tests.tokenizer.corpus import ENGLISH, TEXTS, tokenizer, train

tokenizers = pytest.importorskip("tokenizers")


class Recorder(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@settings(max_examples=20, deadline=None)
@given(st.permutations(TEXTS))
def test_the_order_of_documents_does_not_matter(texts: list[str]) -> None:
    assert train(texts).fingerprint == train(TEXTS).fingerprint


def test_the_vocabulary_has_the_size_that_was_asked_for() -> None:
    recorder = Recorder()
    assert train(TEXTS, 350, progress=recorder).vocab_size == 350
    assert recorder.warnings == []


def test_too_small_a_corpus_gives_fewer_entries_and_one_advice() -> None:
    """D3."""
    recorder = Recorder()
    small = train(["aaaa bb aaaa"], 4096, progress=recorder)
    assert 279 < small.vocab_size < 300
    assert len(recorder.warnings) == 1
    assert "tokenizer.vocab_size=300" in recorder.warnings[0] and "4096" in recorder.warnings[0]
    assert small.decode(small.encode("aaaa bb aaaa")) == "aaaa bb aaaa"


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_an_error(texts: list[str]) -> None:
    with pytest.raises(DataError, match="text to train on"):
        train(texts)


def test_lone_surrogates_do_not_stop_training() -> None:
    assert train(["a\udc80b " * 9]).fingerprint == train(["a\ufffdb " * 9]).fingerprint


def test_progress_counts_bytes_and_merges() -> None:
    seen: dict[str, tuple[float | None, float]] = {}

    class Bars(Progress):
        @contextlib.contextmanager
        def bar(self, label: str, total: float | None = None, unit: str = "", done: float = 0) -> Iterator[Bar]:
            with super().bar(label, total, unit, done) as bar:
                yield bar
            seen[label] = (total, bar.done)

    size = sum(len(text.encode()) for text in TEXTS)
    train_tokenizer(TEXTS, TokenizerSection(vocab_size=300), Bars(), size)
    assert seen == {"counting": (size, size), "merging": (21, 21)}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abcé", max_size=8), max_size=12), st.integers(1, 60), st.randoms())
def test_selected_texts_are_the_first_by_hash_that_fit(texts: list[str], max_bytes: int, random) -> None:
    try:
        chosen = select_texts(texts, max_bytes)
    except DataError:
        chosen = None
    random.shuffle(texts)
    if chosen is None:
        with pytest.raises(DataError):
            select_texts(texts, max_bytes)
        return
    assert sorted(chosen) == sorted(select_texts(texts, max_bytes))
    assert sum(len(text.encode()) for text in chosen) <= max_bytes
    if max_bytes >= sum(len(text.encode()) for text in texts):
        assert sorted(chosen) == sorted(texts)
    more = select_texts(texts, max_bytes + 20)
    assert not set(chosen) - set(more)


def test_copies_of_a_text_are_selected_as_far_as_they_fit() -> None:
    assert select_texts(["ab", "ab", "ab"], 5) == ["ab", "ab"]


def test_max_bytes_limits_what_is_trained_on_and_is_checked() -> None:
    config = TokenizerSection(vocab_size=300, max_bytes=200)
    few = train_tokenizer(ENGLISH, config, Progress(), None)
    assert few.fingerprint == train_tokenizer(ENGLISH[::-1], config, Progress(), 10**6).fingerprint
    assert few.fingerprint == train(select_texts(ENGLISH, 200), 300).fingerprint
    with pytest.raises(DataError, match="max_bytes=10"):
        train_tokenizer(ENGLISH, TokenizerSection(max_bytes=10), Progress(), None)


def test_pretokens_are_counted_by_their_pattern() -> None:
    assert count_pretokens(["a 12345", "a"], "digits", Progress(), None) == {b"a": 2, b" ": 1, b"1": 1, b"2": 1, b"3": 1, b"4": 1, b"5": 1}
    assert count_pretokens(["a 12345"], "gpt4", Progress(), None) == {b"a": 1, b" ": 1, b"123": 1, b"45": 1}
    assert count_pretokens(["a 12345"], "gpt2", Progress(), None) == {b"a": 1, b" 12345": 1}


def test_compression_is_that_of_tokenizers() -> None:
    """The peer breaks ties otherwise, so its merges may differ, the number of tokens hardly."""
    texts = ENGLISH * 3 + TEXTS
    ours = tokenizer("gpt2")
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=ours.vocab_size - 23, initial_alphabet=alphabet, show_progress=False)
    peer.train_from_iterator(texts, trainer)
    theirs = sum(len(peer.encode(text).ids) for text in ENGLISH)
    assert sum(len(ours.encode(text)) for text in ENGLISH) == pytest.approx(theirs, rel=0.03)


def test_measures_count_what_is_there() -> None:
    bytes_only = Tokenizer([], "gpt4")
    assert measure(bytes_only, ["ab é", "", "a"]) == {
        "documents": 3,
        "bytes": 6,
        "characters": 5,
        "tokens": 6,
        "bytes_per_token": 1.0,
        "characters_per_token": 0.8333,
        "tokens_per_word": 2.0,
        "used_entries": 5,
        "used_share": round(5 / 256, 4),
        "longest_entry_bytes": 1,
    }
    assert measure(bytes_only, [])["bytes_per_token"] == 0
    assert measure(tokenizer(), ENGLISH)["bytes_per_token"] > 1.5
