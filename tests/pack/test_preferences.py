"""Packed pairs: both sides in one row, answers whole with their end of turn, long prompts shortened, all of it counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luthier.errors import DataError
from luthier.pack.loader import IGNORE_INDEX
from luthier.pack.preferences import PADDING, PreferenceRows, fit_pair, pack_preferences
from luthier.tasks.conversation import Message
from luthier.tasks.preferences import preference
from luthier.tokenizer.chat import parse, render
from tests.post.pairs import packed, pairs
from tests.small import small_tokenizer
from tests.tokenizer.kinds import EVERY, tokenizer_of


def _learned(ids: list[int], mask: list[bool]) -> list[int]:
    return [token for token, learned in zip(ids, mask, strict=True) if learned]


@pytest.mark.parametrize(("kind", "layout"), [(kind, layout) for kind, layout in EVERY if kind.startswith("bpe")])
def test_targets_are_the_answer_and_what_ends_it_in_every_layout(tmp_path: Path, kind: str, layout: str) -> None:
    """A layout may put text behind the end of a turn, which is not the answer's."""
    tokenizer, made = tokenizer_of(kind, layout), pairs(6)
    pack_preferences(made, [Message("system", "be kind.")], tokenizer, 100, 200, tmp_path, "train")
    rows, seen = PreferenceRows.open(tmp_path, "train"), 0
    for index in range(rows.n_rows):
        _, targets, documents = rows.row(index)
        assert documents is not None
        for number in sorted(set(documents.tolist()) - {PADDING}):
            one = made[number // 2]
            text = one.rejected if number % 2 else one.chosen
            ends = [tokenizer.special.end_of_turn, *[tokenizer.special.end_of_text] * tokenizer.chat.ends]
            expected = [*tokenizer.encode(tokenizer.chat.prefix + text), *ends]
            assert targets[(documents == number) & (targets != IGNORE_INDEX)].tolist() == expected
            seen += 1
    assert seen == 2 * len(made)


def test_rows_hold_whole_pairs_and_only_answers_are_targets(tmp_path: Path) -> None:
    rows, tokenizer, made = packed(tmp_path), small_tokenizer(), pairs()
    seen: dict[int, list[int]] = {}
    for index in range(rows.n_rows):
        inputs, targets, documents = rows.row(index)
        assert documents is not None
        here = set(documents.tolist()) - {PADDING}
        assert {number ^ 1 for number in here} == here, "both sides of a pair are in one row"
        assert (targets[documents == PADDING] == IGNORE_INDEX).all()
        for number in here:
            seen[number] = targets[(documents == number) & (targets != IGNORE_INDEX)].tolist()
            one = made[number // 2]
            ids, _ = render(one.messages(one.rejected if number % 2 else one.chosen), tokenizer)
            assert inputs[documents == number].tolist() in (ids, ids[:-1])
    assert sorted(seen) == list(range(2 * rows.n_pairs))
    for number, answer in seen.items():
        one = made[number // 2]
        assert answer[-1] == tokenizer.special.end_of_turn
        assert tokenizer.decode(answer[:-1]).strip() == (one.rejected if number % 2 else one.chosen)
    assert sum(len(rows.describe(index)) for index in range(rows.n_rows)) == 2 * rows.n_pairs


def test_a_long_prompt_loses_its_oldest_turns_and_never_an_answer() -> None:
    tokenizer = small_tokenizer()
    talk = [{"role": role, "content": "The river flows from the mountains."} for role in ("user", "assistant") * 2]
    last = {"role": "user", "content": "And the sea?"}
    record = {
        "chosen": [*talk, last, {"role": "assistant", "content": "Salt."}],
        "rejected": [*talk, last, {"role": "assistant", "content": "No."}],
    }
    one = preference(record, "test")
    whole, complete = fit_pair(one, [], tokenizer, 400, 800)
    assert whole is not None and complete
    found, complete = fit_pair(one, [Message("system", "Be kind.")], tokenizer, 60, 120)
    assert found is not None and not complete
    for (ids, answer), text in zip(found, ("Salt.", "No."), strict=True):
        said = parse(ids, tokenizer)
        assert said[0] == Message("system", "Be kind.") and said[1].role == "user" and said[-1] == Message("assistant", text)
        assert ids[-1] == tokenizer.special.end_of_turn and tokenizer.decode(_learned(ids, answer)[:-1]).strip() == text
    assert fit_pair(one, [], tokenizer, 8, 800) == (None, False)


def test_what_is_shortened_or_left_out_is_counted(tmp_path: Path) -> None:
    long = preference({"prompt": "What?", "chosen": "The sea. " * 40, "rejected": "No."}, "test")
    report = pack_preferences([*pairs(4), long], [], small_tokenizer(), 64, 128, tmp_path, "train")
    assert (report["pairs"], report["packed"], report["dropped"], report["shortened"]) == (5, 4, 1, 0)
    sides = fit_pair(long, [], small_tokenizer(), 10_000, 10_000)[0]
    assert sides is not None and fit_pair(long, [], small_tokenizer(), 10_000, len(sides[0][0])) == (None, False)
    both = len(sides[0][0]) + len(sides[1][0])
    for seq_len, fate in ((both - 1, (5, [])), (both - 2, (4, ["left out"]))):
        found = pack_preferences([*pairs(4), long], [], small_tokenizer(), len(sides[0][0]), seq_len, tmp_path, "train")
        assert (found["packed"], [one["what"] for one in found["too_long"]]) == fate and found["shortened"] == 0
    with pytest.raises(DataError, match="no train pair is left"):
        pack_preferences([long], [], small_tokenizer(), 64, 128, tmp_path, "train")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    packed(tmp_path)
    path = tmp_path / "train-tokens.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train-tokens\.npy"):
        PreferenceRows.open(tmp_path, "train")


def test_the_same_pairs_give_the_same_rows(tmp_path: Path) -> None:
    one, other = packed(tmp_path / "a"), packed(tmp_path / "b")
    assert one.fingerprint == other.fingerprint
    assert all(np.array_equal(a, b) for i in range(one.n_rows) for a, b in zip(one.row(i), other.row(i), strict=True) if a is not None)
