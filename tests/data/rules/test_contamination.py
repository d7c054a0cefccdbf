from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.rules.batches import as_texts
from luthier.data.rules.contamination import NO_RECORD, Contamination, strings_of
from luthier.data.rules.ngrams import SHORTEST, normal_words

QUESTION = "Which of the seven old men who lived on the hill knew the way to the sea?"
SHORT = "How many legs does a spider have, then?"


def hits(contamination: Contamination, *texts: str) -> list[int]:
    return contamination.hits(as_texts(texts)).tolist()


def test_a_text_is_known_by_thirteen_words_in_a_row() -> None:
    known = Contamination.build([["other words"], [QUESTION], [QUESTION, SHORT]], 13)
    spread = "KNEW the way, to the sea: which of the seven old MEN -- who lived on the hill knew; the way!"
    words = QUESTION.split()
    assert hits(known, QUESTION, f"So: {spread}", " ".join(words[:13]), " ".join(words[:12]), " ".join(words[1:14])) == [1, 1, 1, -1, 1]
    assert hits(known, "a b c", "", f"x {SHORT} y {QUESTION}", f"{QUESTION} {SHORT}") == [-1, -1, 2, 1]
    assert (known.records, known.left_out) == (3, 1)


def test_short_records_are_known_by_all_their_words() -> None:
    nine = f"{SHORT} Eight."
    known = Contamination.build([["seven words are not enough for that"], [nine], [SHORT], []], 13)
    assert known.left_out == 2
    assert hits(known, SHORT, nine, "many legs does a spider have then eight", f"And {nine} so?") == [2, 1, NO_RECORD, 1]


def test_a_table_is_saved_and_shared(tmp_path: Path) -> None:
    known = Contamination.build(([f"{QUESTION} {number}"] for number in range(50)), 13)
    np.save(tmp_path / "table.npy", known.table)
    shared = Contamination(np.load(tmp_path / "table.npy", mmap_mode="r", allow_pickle=False))
    assert hits(shared, QUESTION, f"men who lived on the hill knew the way to the sea 49 {QUESTION}") == [0, 49]


def test_without_records_nothing_is_hit() -> None:
    assert hits(Contamination.build([], 13), QUESTION) == [NO_RECORD]


def test_strings_are_found_at_any_depth() -> None:
    record = {"question": "a", "choices": ["b", {"text": "c"}], "n": 3, "none": None, "more": {"x": ("d",)}}
    assert strings_of(record) == ["a", "b", "c", "d"]


def naive(texts: list[str], records: list[list[str]], ngram: int) -> list[int]:
    known: dict[tuple[str, ...], int] = {}
    for number, record in enumerate(records):
        for text in record:
            words = normal_words(text)
            n = ngram if len(words) >= ngram else len(words)
            if n == ngram or n >= SHORTEST:
                for i in range(len(words) - n + 1):
                    known.setdefault(tuple(words[i : i + n]), number)
    found: list[int] = []
    for text in texts:
        words = normal_words(text)
        places = ((i, n) for i in range(len(words)) for n in range(len(words) - i, 0, -1))
        found.append(next((known[tuple(words[i : i + n])] for i, n in places if tuple(words[i : i + n]) in known), NO_RECORD))
    return found


some_words = st.lists(st.sampled_from(["a", "b", "A,", "\u00c9", "\u00e9.", "--"]), max_size=30).map(" ".join)


@settings(deadline=None)
@given(st.lists(some_words, max_size=5), st.lists(st.lists(some_words, max_size=2), max_size=5), st.sampled_from([1, 3, 8, 9, 13]))
def test_hits_are_those_of_sets_of_words(texts: list[str], records: list[list[str]], ngram: int) -> None:
    assert hits(Contamination.build(records, ngram), *texts) == naive(texts, records, ngram)


@pytest.mark.parametrize("text", ["a " * 300_000, "a" * 500_000, "\u0301 " * 200_000, ". " * 300_000])
def test_hostile_texts_end(text: str) -> None:
    known = Contamination.build([[text[:200_000]], [QUESTION]], 13)
    assert hits(known, text, QUESTION) == [0 if (text[0] == "a" and text[1] == " ") or text[0] == "\u0301" else NO_RECORD, 1]
