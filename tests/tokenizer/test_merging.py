"""Compiled merges against the readable ones, and both against peers that follow the same rule."""

from __future__ import annotations

import random
from collections.abc import Iterable

import bpeasy
import pytest
import rustbpe
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.runs.progress import Progress
from luthier.tokenizer.backend import count_pretokens_readable, learn_merges, why_not_compiled
from luthier.tokenizer.bpe import train_merges
from luthier.tokenizer.counts import Counts
from luthier.tokenizer.merging import train_merges_compiled
from luthier.tokenizer.patterns import PATTERNS
from tests.tokenizer.corpus import ENGLISH, SCRIPTS
from tests.tokenizer.test_bpe import any_bytes, few_letters, quadratic_merges


def corpus(seed: int, n_texts: int = 300) -> list[str]:
    """Texts of words made of syllables, in several scripts."""
    chance = random.Random(seed)
    syllables = ["ka", "to", "mi", "ra", "ne", "so", "lu", "vi", "the", "ing", "er", "an", "str", "во", "да", "字", "中", "7", "42"]
    return [" ".join("".join(chance.choices(syllables, k=chance.randint(1, 5))) for _ in range(40)) for _ in range(n_texts)]


def untied(seed: int) -> list[str]:
    """Words of letters whose frequencies differ, so that pairs hardly ever occur equally often."""
    chance = random.Random(seed)
    weights = [1.3**number for number in range(26)]
    return [" ".join("".join(chance.choices("qzjxkvbpygfwmucldrhsnioate", weights, k=4)) for _ in range(100)) for _ in range(200)]


def joined(merges: Iterable[tuple[int, int]]) -> list[bytes]:
    entries = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        entries.append(entries[left] + entries[right])
    return entries


@settings(max_examples=200, deadline=None)
@given(st.one_of(few_letters, any_bytes), st.integers(0, 60))
def test_compiled_merges_equal_the_quadratic_reference(counts: dict[bytes, int], n_merges: int) -> None:
    assert train_merges_compiled(counts, n_merges, Progress()) == quadratic_merges(counts, n_merges)


@pytest.mark.parametrize("seed", range(20))
def test_twenty_corpora_give_the_merges_of_the_readable_code(seed: int) -> None:
    counts = count_pretokens_readable(corpus(seed), "gpt4", Progress(), None)
    readable = train_merges(counts, 1500, Progress())
    assert train_merges_compiled(counts, 1500, Progress()) == readable
    assert learn_merges(counts, 1500, Progress()) == readable
    assert readable[:60] == quadratic_merges(counts, 60)


@settings(max_examples=100, deadline=None)
@given(few_letters, st.integers(0, 20), st.integers(0, 20))
def test_a_training_that_goes_on_gives_what_one_training_gives(counts: dict[bytes, int], first: int, more: int) -> None:
    whole = train_merges(counts, first + more, Progress())
    assert train_merges_compiled(counts, more, Progress(), whole[:first]) == whole[first:] or len(whole) < first


def test_counts_and_occurrences_beyond_the_kernels_go_the_readable_way() -> None:
    assert train_merges_compiled({b"ab": 2**70, b"cd": 2**70 + 1}, 1, Progress()) == [(99, 100)]
    assert train_merges_compiled({b"ab": 2**62, b"cd": 2**62 + 1}, 1, Progress()) == [(99, 100)]
    assert train_merges_compiled({b"ab": 2**32 + 1, b"cd": 2**32 + 2}, 1, Progress()) == [(99, 100)]


def test_counts_are_a_mapping() -> None:
    counts = Counts.of({b"ab": 3, b"c": 1, b"": 9, b"never": 0})
    assert dict(counts) == {b"ab": 3, b"c": 1} and counts == {b"ab": 3, b"c": 1}
    assert counts.n_bytes == 3 and counts.most_pairs() == 7 and len(counts) == 2
    with pytest.raises(KeyError):
        counts[b"d"]


def test_merges_are_those_of_rustbpe_and_bpeasy() -> None:
    texts = [*corpus(99, 500), *ENGLISH, *SCRIPTS]
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    counts = count_pretokens_readable(texts, "gpt4", Progress(), None)
    ours = joined(train_merges_compiled(counts, 1200, Progress()))
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(texts), len(ours), pattern=PATTERNS["gpt4"])
    assert [bytes(token) for token, _ in sorted(peer.get_mergeable_ranks(), key=lambda item: item[1])] == ours
    ranks = bpeasy.train_bpe(iter(texts), PATTERNS["gpt4"], 10**6, len(ours))
    assert sorted(ranks, key=ranks.__getitem__) == ours


@pytest.mark.parametrize("seed", range(5))
def test_merges_are_those_of_tokenizers_until_a_tie(seed: int) -> None:
    texts = untied(seed)
    counts = count_pretokens_readable(texts, "gpt4", Progress(), None)
    ours = joined(quadratic_merges(counts, 200, stop_at_tie=True))
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    steps = tokenizers.pre_tokenizers
    split = steps.Split(tokenizers.Regex(PATTERNS["gpt4"]), "isolated")
    peer.pre_tokenizer = steps.Sequence([split, steps.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = steps.ByteLevel.alphabet()
    peer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=len(ours), initial_alphabet=alphabet, show_progress=False))
    assert len(ours) > 256 + 5
    assert joined(train_merges_compiled(counts, len(ours) - 256, Progress())) == ours
    assert {text_of(entry) for entry in ours} == set(peer.get_vocab())


def text_of(entry: bytes) -> str:
    """How byte-level vocabularies write an entry."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = {byte: 256 + number for number, byte in enumerate(byte for byte in range(256) if byte not in visible)}
    return "".join(chr(hidden.get(byte, byte)) for byte in entry)


def test_the_kernels_work_here() -> None:
    assert why_not_compiled() is None
