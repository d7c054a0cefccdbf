"""Measures: what is counted is what is there."""

from __future__ import annotations

import pytest

from luthier.tokenizer.measures import compare, measure, measure_all, splits, unreachable, view
from luthier.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.corpus import ENGLISH, TEXTS
from tests.tokenizer.kinds import KINDS, tokenizer_of

BYTES = Tokenizer([], "gpt4")


def test_words_numbers_and_punctuation_are_counted_with_the_space_before_them() -> None:
    found = splits(Tokenizer([(97, 98)], "gpt4"), ["ab abc 12 ?! ab"])
    assert found["words"] == {"occurrences": 3, "tokens_each": round((1 + 3 + 2) / 3, 4), "whole_share": round(1 / 3, 4)}
    assert found["numbers"] == {"occurrences": 1, "tokens_each": 3.0, "whole_share": 0.0}
    assert found["punctuation"]["tokens_each"] == 3.0
    assert splits(BYTES, [])["words"] == {"occurrences": 0, "tokens_each": 0.0, "whole_share": 0.0}


def test_a_run_inside_a_text_has_no_space_put_before_it() -> None:
    found = splits(tokenizer_of("uncased drop"), ["a.", "a 7. 7"])
    assert found["punctuation"] == {"occurrences": 2, "tokens_each": 1.0, "whole_share": 1.0}
    assert found["numbers"]["tokens_each"] == 2.0


def test_entries_that_no_text_gives_are_found() -> None:
    never_in_utf8 = [0xC0, 0xC1, *range(0xF5, 0x100)]
    assert unreachable(BYTES) == never_in_utf8
    crossing = Tokenizer([(97, 49), (48, 49)], "digits")  # "a1" and "01": the pattern parts both
    assert unreachable(crossing) == [*never_in_utf8, 256, 257]
    covered = Tokenizer([(97, 98), (98, 99), (256, 99)], "gpt4")
    assert 258 not in unreachable(covered) and 257 not in unreachable(covered)


@pytest.mark.parametrize("kind", KINDS)
def test_what_text_gives_is_not_called_unreachable(kind: str) -> None:
    ours = tokenizer_of(kind)
    given = {token for text in TEXTS for token in ours.encode(text)} - {ours.special.unknown}
    assert not given & set(unreachable(ours))
    if kind == "characters bytes":
        assert ours.parts.ids[ord("a")] in unreachable(ours)  # the character has an entry of its own


def test_a_view_shows_each_token_once_in_order() -> None:
    assert view(BYTES, "aé") == [
        {"id": 97, "text": "a", "bytes": 1},
        {"id": 0xC3, "text": "\\xc3", "bytes": 1},
        {"id": 0xA9, "text": "\\xa9", "bytes": 1},
    ]
    assert view(tokenizer_of("uncased unk"), "中")[-1]["text"] == "<|unknown|>"
    ours = tokenizer_of("bpe")
    assert "".join(piece["text"] for piece in view(ours, ENGLISH[0])) == ENGLISH[0]


def test_each_source_is_measured_by_itself() -> None:
    ours = tokenizer_of("bpe")
    found = measure_all(ours, {"one": ENGLISH[:2], "other": ENGLISH[2:]})
    assert found["sources"] == {"one": measure(ours, ENGLISH[:2]), "other": measure(ours, ENGLISH[2:])}
    assert found["tokens"] == sum(source["tokens"] for source in found["sources"].values())
    assert found["bytes_per_token"] == measure(ours, ENGLISH)["bytes_per_token"]
    assert found["unreachable_entries"] >= 13 and found["view"][0]["id"] == ours.encode(ENGLISH[0])[0]
    assert measure_all(ours, {})["bytes_per_token"] == 0


def test_the_share_of_unknown_tokens_is_said_where_there_is_such_a_token() -> None:
    assert measure(tokenizer_of("uncased unk"), ["ab中"])["unknown_share"] == pytest.approx(1 / 4, abs=0.1)
    assert "unknown_share" not in measure(BYTES, ["ab"])


def test_two_tokenizers_side_by_side() -> None:
    ours = tokenizer_of("bpe")
    found = compare(BYTES, ours, {"text": ENGLISH})
    assert found["vocab_size"] == [279, ours.vocab_size] and found["common_entries"] == 256
    assert found["common_share"] == [1.0, round(256 / len(ours.entries), 4)]
    assert found["sources"]["text"][0]["bytes_per_token"] == 1.0 < found["sources"]["text"][1]["bytes_per_token"]
    assert all("".join(tokens) == probe["text"] for probe in found["probes"] for tokens in probe["tokens"])
