"""Pairs of answers: the shapes that records have, what is left out and why, and the side that a prompt is on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.config.post import PreferenceSourceConfig
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tasks.conversation import Message, Unfit
from luthier.tasks.preferences import build_preferences, preference

USER, YES, NO = {"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Is it so?", "chosen": "Yes.", "rejected": "No."},
        {"question": "Is it so?", "chosen": "Yes.", "rejected": " No. "},
        {"instruction": "Is it so?", "input": "", "output": "other", "chosen": "Yes.", "rejected": "No."},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "Is it so?", "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"prompt": [USER], "chosen": "Yes.", "rejected": "No."},
        {"instruction": "Is it so?", "chosen_response": "Yes.", "rejected_response": "No."},
    ],
)
def test_shapes_that_mean_the_same_give_the_same(record: dict[str, Any]) -> None:
    found = preference(record, "here")
    assert (found.prompt, found.chosen, found.rejected) == ((Message("user", "Is it so?"),), "Yes.", "No.")
    assert found.id == preference({"prompt": "Is it so?", "chosen": "Yes.", "rejected": "No."}, "there").id


def test_input_and_system_stand_in_the_prompt() -> None:
    found = preference({"instruction": "Add.", "input": "1 and 2", "chosen": "3", "rejected": "4", "system": "Be right."}, "here")
    assert found.prompt == (Message("system", "Be right."), Message("user", "Add.\n\n1 and 2"))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "Is it so?", "chosen": "Yes."}, "missing_field"),
        ({"prompt": "Is it so?", "chosen": "Yes.", "rejected": "Yes."}, "equal_answers"),
        ({"prompt": "Is it so?", "chosen": "Yes.", "rejected": ""}, "empty_answer"),
        ({"prompt": "", "chosen": "Yes.", "rejected": "No."}, "empty_prompt"),
        ({"chosen": "Yes.", "rejected": "No."}, "wrong_order"),
        ({"chosen": [USER, YES], "rejected": [{"role": "user", "content": "Other?"}, NO]}, "not_two_answers"),
        ({"chosen": [USER, YES], "rejected": [USER, {"content": "No."}]}, "missing_role"),
        ({"chosen": [USER, YES], "rejected": [USER]}, "not_two_answers"),
    ],
)
def test_what_does_not_fit_says_why(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        preference(record, "here")


def write(path: Path, records: list[dict[str, Any]]) -> PreferenceSourceConfig:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return PreferenceSourceConfig.model_validate(str(path))


def test_a_prompt_is_on_one_side_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    records = [{"prompt": f"Question {i // 2}?", "chosen": f"Yes {i}.", "rejected": "No."} for i in range(60)]
    source = write(tmp_path / "pairs.jsonl", [*records, records[0], {"prompt": "Why?", "chosen": "So.", "rejected": "So."}])
    found = build_preferences([source], 1, 0.2, tmp_path, Progress())
    assert len(found.train) + len(found.validation) == 60 and len(found.validation) >= 2
    assert not {one.prompt_id for one in found.train} & {one.prompt_id for one in found.validation}
    assert found.sources[0]["dropped"] == {"duplicate": 1, "equal_answers": 1}
    again = build_preferences([source], 1, 0.2, tmp_path, Progress())
    assert [one.id for one in again.validation] == [one.id for one in found.validation]


def test_a_source_without_pairs_is_refused_with_its_fields(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair of answers"):
        build_preferences([write(tmp_path / "a.jsonl", [{"text": "Only text."}])], 1, 0.2, tmp_path, Progress())


def test_pairs_of_conversations_reject_another_ones_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"question": f"{a} and {b}?", "answer": str(a + b)} for a in range(6) for b in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"other": 1}]))
    source = PreferenceSourceConfig(path=str(path), task="questions")
    found = build_preferences([source], 1, 0.2, tmp_path / "cache", Progress())
    pairs = [*found.train, *found.validation]
    right = {row["question"]: row["answer"] for row in rows}
    assert found.sources[0]["dropped"]["missing_field"] == 1 and found.sources[0]["dropped"].get("equal_answers", 0) < 12
    assert len(pairs) > 24 and found.validation and len({one.id for one in pairs}) == len(pairs)
    for one in pairs:
        assert one.chosen == right[one.prompt[-1].content] != one.rejected and one.rejected in right.values()
    again = build_preferences([source], 1, 0.2, tmp_path / "cache", Progress())
    assert again.train == found.train


def test_tasks_that_make_their_own_records_make_no_pairs() -> None:
    with pytest.raises(ValueError, match="one that reads records"):
        PreferenceSourceConfig(path="a.jsonl", task="personality")
