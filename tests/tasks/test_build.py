from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from luthier.config.sft import SftSourceConfig
from luthier.data.report import place_of
from luthier.errors import DataError
from luthier.runs.progress import Progress
from luthier.tasks.build import TASKS, ConversationSet, build_conversations


def _write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def _recipes(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"title": f"Dish {n}", "ingredients": [f"{n} eggs"], "steps": ["Boil them.", f"Serve {n}."]} for n in range(start, stop)]


def _questions(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"instruction": f"Say {n}.", "output": str(n)} for n in range(start, stop)]


class Said(Progress):
    """Prints what is said."""

    def say(self, text: str) -> None:
        print(text)


def _build(tmp_path: Path, *sources: tuple[Path, str], seed: int = 1, share: float = 0.1, limit: int | None = None) -> ConversationSet:
    configs = [SftSourceConfig(path=str(path), task=task, licence="CC0-1.0", limit=limit) for path, task in sources]  # type: ignore[arg-type]
    return build_conversations(configs, seed, share, tmp_path / "cache", Said())


def test_sources_are_read_counted_and_split(tmp_path: Path) -> None:
    records = [*_questions(0, 200), {"instruction": "Say 0.", "output": "0"}, {"instruction": "x"}, {"instruction": "x", "output": "\n"}]
    made = _build(tmp_path, (_write(tmp_path / "q.jsonl", records), "instructions"))
    assert len(made.train) + len(made.validation) == 200
    assert 5 < len(made.validation) < 40
    (row,) = made.sources
    assert row["dropped"] == {"duplicate": 1, "empty_answer": 1, "missing_field": 1}
    assert row["left_out"] == [
        {"reason": "missing_field", "file": "q.jsonl", "line": 202},
        {"reason": "empty_answer", "file": "q.jsonl", "line": 203},
    ]
    assert (row["train"], row["validation"]) == (len(made.train), len(made.validation))
    assert (row["name"], row["task"], row["licence"], row["attribution"]) == ("q.jsonl", "instructions", "CC0-1.0", None)
    assert (row["conversations"], row["records"]) == (200, 203)
    assert _build(tmp_path, (tmp_path / "q.jsonl", "instructions")) == made


def test_adding_a_source_never_moves_a_conversation(tmp_path: Path) -> None:
    one = _write(tmp_path / "one.jsonl", _questions(0, 100))
    two = _write(tmp_path / "two.jsonl", _recipes(0, 100))
    before, after = _build(tmp_path, (one, "instructions")), _build(tmp_path, (two, "cookbook"), (one, "instructions"))
    for side in ("train", "validation"):
        assert {c.id for c in getattr(before, side)} <= {c.id for c in getattr(after, side)}


def test_conversations_of_one_record_stand_on_one_side(tmp_path: Path) -> None:
    made = _build(tmp_path, (_write(tmp_path / "r.jsonl", _recipes(0, 200)), "cookbook"), share=0.4)
    assert len(made.train) + len(made.validation) > 240
    sides = [{c.messages[1].content.split(";")[0].split(".")[0] for c in side} for side in (made.train, made.validation)]
    assert sides[0].isdisjoint(sides[1])


def test_a_limit_keeps_the_same_ones_and_does_not_favour_a_side(tmp_path: Path) -> None:
    path = _write(tmp_path / "q.jsonl", _questions(0, 400))
    small, more = (_build(tmp_path, (path, "instructions"), limit=limit) for limit in (100, 200))
    assert len(small.train) + len(small.validation) == 100
    assert {c.id for c in small.train} < {c.id for c in more.train}
    assert 1 < len(small.validation) < 30
    assert small.sources[0]["dropped"] == {"over_limit": 300}
    assert {c.id for c in small.train} != {c.id for c in _build(tmp_path, (path, "instructions"), seed=2, limit=100).train}


def test_no_side_is_empty_and_one_record_is_too_few(tmp_path: Path) -> None:
    made = _build(tmp_path, (_write(tmp_path / "q.jsonl", _questions(0, 3)), "instructions"), share=0.001)
    assert (len(made.train), len(made.validation)) == (2, 1)
    with pytest.raises(DataError, match="2 records or more"):
        _build(tmp_path, (_write(tmp_path / "q.jsonl", _questions(0, 1)), "instructions"))


def test_a_source_that_does_not_fit_its_task_names_both_sides_fields(tmp_path: Path) -> None:
    path = _write(tmp_path / "q.jsonl", _questions(0, 5))
    expected = r"for the task 'messages' \(5 missing_field; q.jsonl:1: missing_field\)\n.*`messages`; .*`instruction`, `output`"
    with pytest.raises(DataError, match=expected):
        _build(tmp_path, (path, "messages"))


def test_every_task_of_the_schema_is_there() -> None:
    assert set(TASKS) == set(SftSourceConfig.model_fields["task"].annotation.__args__)  # type: ignore[union-attr]


def test_a_weight_repeats_or_samples_what_is_trained_on(tmp_path: Path) -> None:
    path = _write(tmp_path / "q.jsonl", _questions(0, 300))

    def build(weight: float | None) -> ConversationSet:
        config = SftSourceConfig(path=str(path), task="instructions", weight=weight)
        return build_conversations([config], 1, 0.1, tmp_path / "cache", Progress())

    once, twice, more, some, fewer = (build(weight) for weight in (None, 2.0, 2.5, 0.5, 0.2))
    assert build(1.0).train == once.train
    assert [one.id for one in twice.train] == [one.id for one in once.train for _ in range(2)]
    assert all(made.validation == once.validation for made in (twice, more, some, fewer))
    assert {c.id for c in fewer.train} < {c.id for c in some.train} < {c.id for c in once.train} == {c.id for c in more.train}
    assert 0.4 < len(some.train) / len(once.train) < 0.6 and 2.4 < len(more.train) / len(once.train) < 2.6
    assert (more.sources[0]["weight"], more.sources[0]["train"]) == (2.5, len(more.train))


def test_faults_are_counted_with_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """C5. Empty lines and lines that are no JSON count as lines, too."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    lines = [
        *[json.dumps({"messages": [turns[0], {"role": "assistant", "content": f"Hello {n}"}]}) for n in range(3)],
        "",
        "{broken",
        json.dumps({"messages": [turns[0], {"role": "assistant", "content": " "}]}),
        json.dumps({"messages": [{"content": "Hi"}, turns[1]]}),
        json.dumps({"messages": [turns[0], {"role": "tool", "content": "x"}]}),
        json.dumps({"messages": [turns[0]]}),
        json.dumps({"messages": turns[::-1]}),
        json.dumps({"other": turns}),
    ]
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    (row,) = _build(tmp_path, (path, "messages")).sources
    expected = ["empty_answer", "missing_role", "unknown_role", "no_answer", "wrong_order", "missing_field"]
    assert row["left_out"] == [{"reason": reason, "file": "m.jsonl.gz", "line": 6 + n} for n, reason in enumerate(expected)]
    assert row["dropped"] == {"bad_json": 1, **dict.fromkeys(expected, 1)}
    assert place_of(row["left_out"][0]) == "m.jsonl.gz:6"
    said = "some are left out: 1 empty_answer, 1 missing_field, 1 missing_role, 1 no_answer, 1 unknown_role, 1 wrong_order"
    assert f"of 9 records {said}; the first at m.jsonl.gz:6" in capsys.readouterr().out


def test_csv_and_lists_name_line_and_record(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.csv").write_text('instruction,output\n"one\nline","yes"\ntwo,\nthree,no\n"four\n",\n')
    (folder / "b.json").write_text(json.dumps([{"instruction": "five", "output": "x"}, {"instruction": "six"}]))
    made = _build(tmp_path, (folder, "auto"), share=0.4)
    assert made.sources[0]["conversations"] == 3
    assert [(one["reason"], place_of(one)) for one in made.sources[0]["left_out"]] == [
        ("empty_answer", "a.csv:4"),
        ("empty_answer", "a.csv:6"),
        ("unknown_fields", "b.json, record 2"),
    ]


def test_the_first_examples_of_each_reason_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "q.jsonl", [*_questions(0, 4), *[{"instruction": "x", "output": ""}] * 9])
    (row,) = _build(tmp_path, (path, "auto"), share=0.4).sources
    assert row["dropped"] == {"empty_answer": 9} and [one["line"] for one in row["left_out"]] == [5, 6, 7, 8, 9]


def test_a_personality_needs_no_file(tmp_path: Path) -> None:
    config = SftSourceConfig(task="personality", weight=3.0)
    made = build_conversations([config], 1, 0.1, tmp_path / "cache", Progress(), "Ada")
    said = " ".join(message.content for one in (*made.train, *made.validation) for message in one.messages)
    assert "My name is Ada." in said and "{" not in said
    assert made.sources[0]["conversations"] >= 30 and made.sources[0]["dropped"] == {}
    assert (made.sources[0]["name"], made.sources[0]["kind"]) == ("personality", "builtin")
    assert made.sources[0]["train"] == 3 * (made.sources[0]["conversations"] - len(made.validation))
    with pytest.raises(ValueError, match="takes no path"):
        SftSourceConfig(task="personality", path="x")
    with pytest.raises(ValueError, match="needs `path`"):
        SftSourceConfig(task="auto")


def test_arithmetic_needs_no_file(tmp_path: Path) -> None:
    config = SftSourceConfig(task="arithmetic", digits=1, limit=50)
    made = build_conversations([config], 1, 0.1, tmp_path / "cache", Progress())
    assert len(made.train) + len(made.validation) == 50 and made.sources[0]["name"] == "arithmetic"
    for one in made.train:
        a, _, b, _ = one.messages[0].content.split()
        assert one.messages[1].content == str(int(a) + int(b))
