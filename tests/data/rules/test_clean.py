from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.config.data import CleanSection, Normaliser
from luthier.data.rules.clean import clean_text, cut_text, document_id, duplicate_key
from luthier.data.rules.normalise import normalise

NORMALISERS: list[Normaliser] = ["plain_quotes", "single_spaces", "uncased_ascii"]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\0b\x07c\x1bd\ufeffe\tf", "abcde\tf"),
        ("one  \t\ntwo\u00a0\n", "one\ntwo"),
        ("    indented\n  more", "    indented\n  more"),
        ("a\n\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a family: \U0001f468\u200d\U0001f469", "a family: \U0001f468\u200d\U0001f469"),
        ("\ud800 alone", "\ufffd alone"),
        (" \n\t\n ", ""),
        ("", ""),
    ],
)
def test_clean_text_gives_the_normal_form(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@pytest.mark.parametrize("text", ["It’s a café in Zürich — naïve?", "наивный кот", "人間は考える葦である", "مرحبا"])
def test_mojibake_is_repaired_only_where_it_is(text: str) -> None:
    counts = Counter[str]()
    broken = text.encode("utf-8").decode("latin-1")
    assert clean_text(broken, counts) == text
    assert counts["mojibake"] == 1
    assert clean_text(text, counts) == text
    assert counts["mojibake"] == 1


def test_portuguese_capitals_are_not_taken_for_mojibake() -> None:
    assert clean_text("NÃO, AÇÃO E SÃO PAULO") == "NÃO, AÇÃO E SÃO PAULO"


def test_entities_and_quotes_and_ligatures_stay() -> None:
    assert clean_text("&lt;b&gt; “so” ﬁne ｗｉｄｅ") == "&lt;b&gt; “so” ﬁne ｗｉｄｅ"


mojibake = st.lists(
    st.sampled_from(["\u00c3", "\u00c2", "\u00a9", "\u0081", "\0", "\u00e2", "\u20ac", "\u2122", "\n", "\u0344", "a ", "\u00e9\u201d"])
).map("".join)
settings_of_all_kinds = st.builds(
    CleanSection,
    encoding=st.booleans(),
    form=st.sampled_from(["NFC", "NFKC", "none"]),
    normalisers=st.lists(st.sampled_from(NORMALISERS), unique=True).map(tuple),
)


@given(st.text(max_size=200) | mojibake, settings_of_all_kinds)
def test_cleaning_twice_is_cleaning_once(text: str, settings: CleanSection) -> None:
    once = clean_text(text, None, settings)
    counts = Counter[str]()
    assert clean_text(once, counts, settings) == once
    assert not counts
    assert settings.form == "none" or unicodedata.is_normalized(settings.form, once)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in once)
    assert "uncased_ascii" not in settings.normalisers or (once.isascii() and once == once.lower())


@given(st.text(max_size=200), st.sampled_from(NORMALISERS))
def test_each_normaliser_is_idempotent(text: str, name: Normaliser) -> None:
    once = normalise(text, [name])
    assert normalise(once, [name]) == once


def test_normalisers_do_what_they_are_called() -> None:
    text = "\u201cIt\u2019s  a\tCaf\u00e9\u201d, \u2018he\u2019 said \u2014\u00a0twice: \u5b57!"
    assert normalise(text, ["plain_quotes"]) == "\"It's  a\tCaf\u00e9\", 'he' said \u2014\u00a0twice: \u5b57!"
    assert normalise(text, ["single_spaces"]) == "\u201cIt\u2019s a Caf\u00e9\u201d, \u2018he\u2019 said \u2014 twice: \u5b57!"
    assert normalise(text, ["uncased_ascii"]) == "\"it's  a\tcaf\", 'he' said  twice: !"
    assert clean_text("\ufb01ne\u00a0\nA", None, CleanSection(form="NFKC")) == "fine\nA"
    assert clean_text("cafe\u0301", None, CleanSection(form="none")) == "cafe\u0301"
    broken = "\u00e9t\u00e9".encode().decode("latin-1")
    assert clean_text(broken, None, CleanSection(encoding=False)) == broken


def test_stacked_marks_are_cut_and_counted_once() -> None:
    counts = Counter[str]()
    assert clean_text("a" + "\u0344" * 100 + " b\0", counts).startswith("\u00e4\u0301")
    assert counts == {"stacked_marks": 1, "control_characters": 1}


@pytest.mark.parametrize("character", ["a", " ", "\n", "\t", "\u0301", "\u0316\u0301", "Ã", "é", "\0", "\r", "\u200d"])
def test_a_million_of_one_character_ends(character: str) -> None:
    """D1."""
    text = clean_text("x" + character * 1_000_000)
    assert text.startswith("x")
    parts = cut_text(text, 1000)
    assert all(len(part) <= 1000 for part in parts)


@given(st.text(alphabet="ab. \n\u0301é。", max_size=400), st.integers(1, 50))
def test_cutting_loses_nothing_but_space(text: str, limit: int) -> None:
    parts = cut_text(text, limit)
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_cutting_prefers_paragraph_line_sentence_word() -> None:
    assert cut_text("aaaa aaaa\n\nbbbb\nbbbb", 15) == ["aaaa aaaa", "bbbb\nbbbb"]
    assert cut_text("aaaa aaaa\nbbbb bbbb", 15) == ["aaaa aaaa", "bbbb bbbb"]
    assert cut_text("Aaaa aaaa. Bbbb bbbb", 15) == ["Aaaa aaaa.", "Bbbb bbbb"]
    assert cut_text("aaaa aaaaaa bbbb", 14) == ["aaaa aaaaaa", "bbbb"]
    assert cut_text("a" * 25, 10) == ["a" * 10, "a" * 10, "a" * 5]


def test_duplicates_ignore_case_and_space_but_ids_do_not() -> None:
    assert duplicate_key("Hello  World\n") == duplicate_key("hello world")
    assert duplicate_key("hello world") != duplicate_key("helloworld")
    assert document_id("a") != document_id("A")
    assert len(document_id("a")) == 32
