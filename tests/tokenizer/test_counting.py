"""Compiled counting against the pattern itself: any text, any number of threads, any bound on memory."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tokenizer import backend, counting
from luthier.tokenizer.backend import count_pretokens, count_pretokens_readable
from luthier.tokenizer.counting import count_parquet, count_texts
from luthier.tokenizer.patterns import PATTERNS, PatternName
from tests.tokenizer.corpus import ENGLISH, SCRIPTS

LETTERS = st.text(st.sampled_from("ab \n'1\u00e9\u5b57\U0001f3bb\ud800\x00\x0c"), max_size=60)


class Warned(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def words(seed: int, n: int) -> list[str]:
    """Texts of `n` words, some of which occur often and most of which are there once or twice."""
    chance = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = ["".join(chance.choices(letters, k=chance.randint(2, 30))) for _ in range(n // 2)]
    return [" ".join(known[int(len(known) * chance.random() ** 3)] for _ in range(50)) for _ in range(n // 50)]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(LETTERS, max_size=6), threads=st.integers(1, 3))
def test_any_text_is_counted_as_by_the_pattern(pattern: PatternName, texts: list[str], threads: int) -> None:
    assert count_texts(texts, pattern, Progress(), None, threads) == count_pretokens_readable(texts, pattern, Progress(), None)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_real_scripts_and_long_words_are_counted_as_by_the_pattern(pattern: PatternName) -> None:
    long = ["x" * 100_000, "-" * 70_000 + "y", " " * 5000 + "z", "\u5b57" * 3000, "x" * 100_000]
    texts = [*ENGLISH, *SCRIPTS, *long, "\ufeffmark\r\nlines\r\n"]
    assert count_texts(texts, pattern, Progress(), None, 2) == count_pretokens_readable(texts, pattern, Progress(), None)


@pytest.mark.parametrize(("threads", "max_bytes"), [(1, 2**29), (2, 2**29), (1, 2**19), (2, 2**19), (3, 2**20)])
def test_what_is_spilled_to_disk_is_added_up_again(threads: int, max_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_BATCH_BYTES", 2**14)
    texts = words(1, 20_000)
    progress = Warned()
    counts = count_texts(texts, "gpt4", progress, None, threads, max_bytes)
    if progress.warnings:
        pytest.fail(f"the bound was meant to hold all: {progress.warnings}")
    assert counts == count_pretokens_readable(texts, "gpt4", Progress(), None)


def test_what_does_not_fit_is_what_occurs_least_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_BATCH_BYTES", 2**14)
    texts = words(2, 20_000)
    whole = Counter(count_pretokens_readable(texts, "gpt4", Progress(), None))
    bound = 2**17
    progress = Warned()
    kept = dict(count_texts(texts, "gpt4", progress, None, 1, bound))
    assert 0 < len(kept) < len(whole)
    assert kept == {word: whole[word] for word in kept}
    assert sum(len(word) + 16 for word in kept) <= bound // 2
    left_out = {word: count for word, count in whole.items() if word not in kept}
    assert max(left_out.values()) <= min(kept.values())
    assert str(len(left_out)) in progress.warnings[0]
    for seed, threads in ((1, 1), (2, 2)):
        random.Random(seed).shuffle(texts)
        assert count_texts(texts, "gpt4", Progress(), None, threads, bound) == kept


def test_memory_is_that_of_the_distinct_pretokens() -> None:
    """A hundred times the text needs no more room."""
    text = " ".join(f"word{number}" for number in range(2000))
    once, often = (count_texts([text] * times, "gpt4", Progress(), None, 1) for times in (1, 100))
    assert once.arena.nbytes == often.arena.nbytes
    assert np.array_equal(np.sort(once.counts) * 100, np.sort(often.counts))


def test_parquet_is_counted_without_strings(tmp_path: Path) -> None:
    texts = [*ENGLISH, *SCRIPTS, ""]
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    for number, some in enumerate((texts[:5], texts[5:])):
        pq.write_table(pa.table({"text": some}), tmp_path / f"{number}.parquet", row_group_size=3)
    paths = sorted(tmp_path.glob("*.parquet"))
    assert count_parquet(paths, "text", "gpt4", Progress(), None, 2) == count_pretokens_readable(texts, "gpt4", Progress(), None)
    with pytest.raises(DataError, match="missing"):
        count_parquet([tmp_path / "missing.parquet"], "text", "gpt4", Progress())


def test_bytes_in_parquet_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    array = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 3, 6], np.int32)), pa.py_buffer(b"a\xffb cd")])
    pq.write_table(pa.table({"text": array}), tmp_path / "bad.parquet")
    counts = count_parquet([tmp_path / "bad.parquet"], "text", "gpt4", Progress())
    assert counts == count_pretokens_readable(["a\ufffdb", " cd"], "gpt4", Progress(), None)


def test_counts_beyond_32_bits_are_kept() -> None:
    block = counting._Table(None, counting.Spill(2**20))
    from luthier.tokenizer.spilling import Block

    words, lengths, hashes = np.frombuffer(b"abcd", np.uint8).copy(), np.array([2, 2]), np.zeros(2, np.uint64)
    for _ in range(3):
        block.count_block(Block(words, lengths, np.array([2**40, 2**31]), hashes))
    (found,) = block.take_out(1)
    assert sorted(found.counts.tolist()) == [3 * 2**31, 3 * 2**40]


def test_without_a_compiler_the_readable_code_counts_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    backend._reason.cache_clear()
    monkeypatch.setattr(backend, "why_not_compiled", lambda: "no LLVM here")
    progress = Warned()
    try:
        counts = count_pretokens(ENGLISH, "gpt4", progress, 10**9)
        again = count_pretokens(ENGLISH, "gpt4", progress, 10**9)
    finally:
        backend._reason.cache_clear()
    assert counts == again == count_pretokens_readable(ENGLISH, "gpt4", Progress(), None)
    assert len(progress.warnings) == 1 and "no LLVM here" in progress.warnings[0]
