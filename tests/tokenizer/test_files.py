"""tokenizer.json: byte-identical when saved again, refused when it is not ours."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import CheckpointError, StorageError
from luthier.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.corpus import TEXTS, tokenizer


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "digits"])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, pattern: str) -> None:
    ours = tokenizer(pattern)
    ours.save(tmp_path / "a.json")
    loaded = Tokenizer.load(tmp_path / "a.json")
    loaded.save(tmp_path / "b.json")
    data = (tmp_path / "a.json").read_bytes()
    assert data == (tmp_path / "b.json").read_bytes()
    assert ours.fingerprint == loaded.fingerprint == hashlib.sha256(data).hexdigest()
    assert (loaded.pattern, loaded.merges, loaded.special) == (ours.pattern, ours.merges, ours.special)
    assert [loaded.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


def test_without_merges_it_is_bytes_and_specials(tmp_path: Path) -> None:
    Tokenizer([], "gpt2").save(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json").encode("é") == list("é".encode())


def _pop(*path: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return change


def _set(new: Any, *path: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = new

    return change


@pytest.mark.parametrize(
    "change",
    [
        _pop("model"),
        _pop("model", "merges"),
        _pop("model", "merges", 0),
        _pop("model", "merges", -1),
        _pop("model", "vocab"),
        _pop("model", "vocab", "t"),
        _pop("added_tokens"),
        _pop("added_tokens", 0),
        _pop("pre_tokenizer"),
        _pop("decoder"),
        _set("Unigram", "model", "type"),
        _set({}, "model", "merges"),
        _set(None, "model", "merges"),
        _set([1, 2], "model", "merges"),
        _set("t h e", "model", "merges", 0),
        _set("not known", "model", "merges", 0),
        _set(["t", "h"], "model", "merges", 0),
        _set(7, "model", "vocab", "t"),
        _set(5, "added_tokens", 0, "id"),
        _set("<|hello|>", "added_tokens", 0, "content"),
        _set(".*", "pre_tokenizer", "pretokenizers", 0, "pattern", "Regex"),
        _set([], "pre_tokenizer", "pretokenizers"),
        _set({"type": "NFC"}, "normalizer"),
        _set(1, "extra"),
    ],
)
def test_an_altered_file_is_refused(tmp_path: Path, change: Callable[[Any], None]) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer().save(path)
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def test_a_merge_listed_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer().save(path)
    content = json.loads(path.read_text("utf-8"))
    content["model"]["merges"].append(content["model"]["merges"][0])
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match="earlier entries to a new one"):
        Tokenizer.load(path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b"[" * 100_000, b"{}"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(CheckpointError):
        Tokenizer.load(tmp_path / "t.json")


def test_a_missing_file_or_a_directory_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(CheckpointError):
            Tokenizer.load(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_loads_alike_or_not_at_all(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage") / "tokenizer.json"
    small = Tokenizer([(116, 104), (256, 101)], "gpt4")
    small.save(path)
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:position])
    else:
        path.write_bytes(whole[:position] + data.draw(st.binary(min_size=1, max_size=3)) + whole[position + 1 :])
    with contextlib.suppress(CheckpointError):
        assert Tokenizer.load(path).fingerprint == small.fingerprint


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        tokenizer().save(tmp_path / "file" / "tokenizer.json")
