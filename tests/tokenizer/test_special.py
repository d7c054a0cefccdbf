"""Layouts: where special tokens stand, what they are called, and that it is recorded and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.config.tokenization import LayoutSection, TokenizerSection
from luthier.errors import CheckpointError, ConfigError
from luthier.tokenizer.special import NAMED_SPECIALS, SPECIAL_STRINGS, Layout, SpecialTokens
from luthier.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.kinds import EVERY, HIGH_IDS, tokenizer_of


def test_by_default_all_stand_behind_the_entries_in_an_order_that_never_changes() -> None:
    special = SpecialTokens.starting_at(300)
    assert [getattr(special, name) for name in NAMED_SPECIALS] == list(range(300, 307))
    assert special.spare == tuple(range(307, 323)) and special.unknown is None
    assert list(special.by_string.items()) == [(string, 300 + i) for i, string in enumerate(SPECIAL_STRINGS)]


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*NAMED_SPECIALS, "unknown"]), st.integers(0, 60), max_size=8),
    st.sampled_from(["front", "back"]),
    st.integers(0, 20),
    st.integers(0, 50),
)
def test_every_id_belongs_to_one_thing(ids: dict, place: str, spare: int, n_entries: int) -> None:
    try:
        layout = Layout.of(LayoutSection(ids=ids, place=place, spare=spare))  # type: ignore[arg-type]
    except ConfigError:
        assert len(set(ids.values())) < len(ids)
        return
    special, entries = layout.place(n_entries)
    strings = special.by_string
    assert list(entries) == sorted(entries) and len(entries) == n_entries
    assert not set(entries) & set(strings.values()) and len(set(strings.values())) == len(strings)
    size = max([*entries, *strings.values()]) + 1
    assert set(entries) | set(strings.values()) | set(special.spare) == set(range(size))
    for name, token in ids.items():
        assert getattr(special, name) == token == strings[f"<|{name}|>"]
    if place == "front" and not ids:
        assert list(entries) == list(range(len(strings), size))


def test_fixed_ids_stay_where_they_are_however_many_entries_there_are() -> None:
    few = tokenizer_of("bpe", "ids")
    assert {name: getattr(few.special, name) for name in HIGH_IDS} == HIGH_IDS
    assert few.token_bytes[4:260] == tuple(bytes([b]) for b in range(256))
    assert few.special.by_string["<|spare_0|>"] == 504 and few.vocab_size == 516
    assert few.token_bytes[503] == b"" and few.special.names["end_of_turn"] == "<|end|>"
    no_entry = set(range(few.vocab_size)) - set(few.entries) - set(few.special.by_string.values())
    assert no_entry <= set(few.special.spare)


def test_two_with_one_string_are_one_token() -> None:
    ours = tokenizer_of("uncased drop", "shared")
    special = ours.special
    assert (special.unknown, special.pad, special.begin_of_text, special.end_of_text, special.user, special.assistant) == (0, 1, 2, 3, 4, 5)
    assert special.system == special.user and special.end_of_turn == special.end_of_text
    assert list(special.by_string) == ["[UNK]", "[PAD]", "[BOS]", "[EOS]", "[USER]", "[AI]"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": {"pad": 3, "user": 3}}, "id 3 must have one string"),
        ({"ids": {"pad": 3, "user": 4}, "strings": {"pad": "<x>", "user": "<x>"}}, "must have one id"),
        ({"strings": {"pad": "<|spare_0|>"}}, "spare"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Layout.of(LayoutSection.model_validate(changes))


def test_settings_that_cannot_work_are_refused() -> None:
    for wrong in (
        {"layout": {"ids": {"pad": 4096}}},
        {"layout": {"ids": {"nonsense": 1}}},
        {"layout": {"strings": {"pad": "x"}}},
        {"layout": {"chat_closed": ["user"]}},
        {"kind": "uncased", "unknown": "bytes"},
        {"extend": True},
    ):
        with pytest.raises(ValidationError):
            TokenizerSection.model_validate(wrong)


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_a_layout_that_was_changed_in_the_file_is_refused(tmp_path: Path, kind: str, layout: str) -> None:
    path = tmp_path / "tokenizer.json"
    ours = tokenizer_of(kind, layout)
    ours.save(path)
    content = json.loads(path.read_text("utf-8"))
    recorded = content["model"]["luthier"]
    assert recorded["kind"] == ours.kind and recorded["names"] == ours.special.names
    for change in (
        {"chat_template": ""},
        {"unknown": "drop" if recorded["unknown"] != "drop" else "unk"},
        {"names": {}},
        {"kind": "other"},
    ):
        content["model"]["luthier"] = {**recorded, **change}
        path.write_text(json.dumps(content), "utf-8")
        with pytest.raises(CheckpointError):
            Tokenizer.load(path)


def test_a_normaliser_that_was_changed_in_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer_of("uncased unk").save(path)
    content = json.loads(path.read_text("utf-8"))
    content["normalizer"] = None
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match="checksum"):
        Tokenizer.load(path)


def test_a_file_of_an_older_version_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    ours = tokenizer_of("bpe")
    ours.save(path)
    content = json.loads(path.read_text("utf-8"))
    del content["model"]["luthier"]
    path.write_text(json.dumps(content), "utf-8")
    assert Tokenizer.load(path).parts == ours.parts
    content["added_tokens"][0]["id"] += 1
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError):
        Tokenizer.load(path)
