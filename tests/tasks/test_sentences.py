from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.tasks.sentences import has_hole, is_sound, split_sentences, tidy


@pytest.mark.parametrize(
    "sentences",
    [
        ["J. S. Bach was born c. 1685 in St. Peter's parish.", "He wrote No. 5, Op. 6."],
        ["B. F. Skinner Jr. met Dr. Smith, i.e. Bob.", "They talked."],
        ["It grew until World War I.", "The end came in the U.S.", "There it stayed."],
        ['She said "No. Never. Not I." and left.', "Nobody knows."],
        ["It is long (about 3.5 km. Or more) and wide.", "2 more follow!", "Really?", "Yes."],
        ["One sentence without an end"],
    ],
)
def test_sentences_end_where_they_do(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


@given(st.text(alphabet='ab A.!?"()\n', max_size=100))
def test_splitting_loses_nothing_but_space(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("The viola ( vee-OH-lə, Italian: [ˈvjɔːla]) is a string instrument.", "The viola is a string instrument."),
        ("Anime  is animation.", "Anime is animation."),
        ("Aniline () is an amine , too.", "Aniline is an amine, too."),
        ("Fengshen (封神榜) is a novel (1620).", "Fengshen is a novel (1620)."),
        ("Deoxyribonucleic acid (DNA) is a polymer.", "Deoxyribonucleic acid (DNA) is a polymer."),
    ],
)
def test_tidy_takes_out_what_a_dump_leaves(raw: str, clean: str) -> None:
    assert tidy(raw) == clean


def test_sound_sentences() -> None:
    assert is_sound("Music is the arrangement of sound.")
    assert not is_sound("Magadha (IPA was a region and kingdom.")
    assert not is_sound("and so it goes on and on.")
    assert not is_sound("It comes from the Greek word Σείριος.")
    assert has_hole("there are no integers  with  such that .")
    assert not has_hole("there are no integers with that.")
