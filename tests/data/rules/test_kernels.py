"""The kernels give what the readable code gives."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config.data import C4
from luthier.data.parquet import Texts
from luthier.data.rules import backend, readable
from luthier.data.rules.batches import as_texts, part
from luthier.data.rules.measures import MEASURES
from luthier.data.rules.ngrams import SHORTEST, empty_table

compiled = pytest.importorskip("luthier.data.rules.compiled")
patient = settings(deadline=None)  # the first call compiles

WORDS = [
    *("the", "of", "and", "to", "be", "That", "with,", "have", "\u201cthe", "of'", "cat", "dogs", "walks.", "a", "b", "c", "d", "e"),
    *("uses", "cookies", "terms", "use", "privacy", "policy", "JavaScript", "lorem", "ipsum", "end!", "why?", "Mr.", "e.g.", "12"),
    *("-", "*", "\u2022", "#", "##", "...", "\u2026", "....", "{x}", "3.14", "\u201cso.\u201d", "(yes.)", "it's", "\u201e", ".--"),
    *("\u00e9t\u00e9", "\u00c9T\u00c9", "\u0130", "\u5b57\u3002\u5b57\u5b57\uff01", "\u3002\u3002", "\U0001f600", "\u0928\u0964"),
    *("\u2026x", '\u3002"', "\u2019", "\u00bb"),
]
SPACES = [" ", " ", " ", " ", "\n", "\n", "\n\n", "\n \n", "  ", "\t", "\u00a0", "\u3000", "\x1f", "\r\n", "\u2028"]
mixed_texts = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SPACES)), max_size=60).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)
few_words = st.lists(st.sampled_from(["a ", "b ", "a\n", "cc ", "\n"]), max_size=120).map("".join)
any_text = st.text(max_size=80)
batches = st.lists(mixed_texts | few_words | any_text, max_size=6)


def strings(texts: Texts) -> list[bytes]:
    return [bytes(texts.data[start:end]) for start, end in zip(texts.starts, texts.ends, strict=True)]


def check_measures(texts: Texts) -> None:
    expected, got = readable.measures(texts, 30, True), compiled.measures(texts, 30, True)
    for number, name in enumerate(MEASURES):
        assert expected[:, number].tolist() == got[:, number].tolist(), name


def test_the_kernels_work_here() -> None:
    assert backend.why_not_compiled() is None
    assert backend.backend() is compiled


@patient
@given(batches)
def test_measures_are_equal(batch: list[str]) -> None:
    check_measures(as_texts(batch))


@patient
@given(batches, st.booleans(), st.integers(0, 4), st.booleans(), st.booleans())
def test_edits_are_equal_and_final(batch: list[str], punctuation: bool, words: int, script: bool, policy: bool) -> None:
    rules = C4(lines_end_in_punctuation=punctuation, min_line_words=words, remove_javascript_lines=script, remove_policy_lines=policy)
    texts = as_texts(batch)
    expected, got = readable.edit_texts(texts, rules), compiled.edit_texts(texts, rules)
    assert strings(expected[0]) == strings(got[0])
    assert expected[1].tolist() == got[1].tolist()
    assert not compiled.edit_texts(got[0], rules)[1].any()


@patient
@given(batches, st.lists(mixed_texts | few_words, max_size=4), st.integers(1, 15))
def test_hits_are_equal(batch: list[str], records: list[str], ngram: int) -> None:
    tables: list[np.ndarray] = []
    for code in (readable, compiled):
        keys, counts = code.ngram_keys(as_texts(records), ngram)
        distinct, first = np.unique(keys, return_index=True)
        table = empty_table(ngram, len(distinct))
        code.fill_table(table, distinct, np.repeat(np.arange(len(records)), counts)[first])
        tables.append(table)
    assert tables[0].tolist() == tables[1].tolist()
    texts = as_texts([*batch, *records])
    found = readable.first_records(texts, tables[0])
    assert found.tolist() == compiled.first_records(texts, tables[0]).tolist()


def test_long_texts_are_measured_equally() -> None:
    """Text with as much repetition as real text has, and more."""
    draw = random.Random(5)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(400)]
    words = draw.choices(vocabulary, weights=[1 / (rank + 1) for rank in range(400)], k=6000)
    for place in draw.sample(range(5000), 60):
        words[place : place + 20] = words[100:120]
    lines = [" ".join(words[i : i + 12]).capitalize() + "." for i in range(0, 6000, 12)]
    texts = as_texts(["\n".join(lines), "\n\n".join(lines[:50] * 3), " ".join(words[:100] * 30), "a " * 3000])
    check_measures(texts)
    assert readable.measures(texts, 30, True)[2:, -1].min() > 0.9


def test_a_part_of_a_buffer_is_judged_alone() -> None:
    texts = as_texts(["one two", "three {four} five", "six"])
    chosen = part(texts, [1])
    assert compiled.measures(chosen, 30, True).tolist() == readable.measures(chosen, 30, True).tolist()
    assert strings(compiled.edit_texts(chosen, C4())[0]) == [b"three {four} five"]


@settings(patient, max_examples=20)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_ill_formed_utf8_does_no_harm(pieces: list[bytes]) -> None:
    ends = np.cumsum([len(piece) for piece in pieces])
    texts = Texts(np.frombuffer(b"".join(pieces), np.uint8), ends - [len(piece) for piece in pieces], ends)
    assert np.isfinite(compiled.measures(texts, 30, True)).all()
    assert len(compiled.edit_texts(texts, C4())[1]) == len(pieces)
    table = empty_table(SHORTEST, 1)
    assert (compiled.first_records(texts, table) == -1).all()
