from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.config.post import SftSourceConfig
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


def _build(tmp_path: Path, *sources: tuple[Path, str], seed: int = 1, share: float = 0.1, limit: int | None = None) -> ConversationSet:
    configs = [SftSourceConfig(path=str(path), task=task, licence="CC0-1.0", limit=limit) for path, task in sources]  # type: ignore[arg-type]
    return build_conversations(configs, seed, share, tmp_path / "cache", Progress())


def test_sources_are_read_counted_and_split(tmp_path: Path) -> None:
    records = [*_questions(0, 200), {"instruction": "Say 0.", "output": "0"}, {"instruction": "x"}, {"instruction": "x", "output": "\n"}]
    made = _build(tmp_path, (_write(tmp_path / "q.jsonl", records), "instructions"))
    assert len(made.train) + len(made.validation) == 200
    assert 5 < len(made.validation) < 40
    (row,) = made.sources
    assert row["dropped"] == {"duplicate": 1, "missing_field": 1, "no_conversation": 1}
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
    with pytest.raises(DataError, match=r"for the task 'messages' \(5 missing_field\)\n.*`messages`; .*`instruction`, `output`"):
        _build(tmp_path, (path, "messages"))


def test_every_task_of_the_schema_is_there() -> None:
    assert set(TASKS) == set(SftSourceConfig.model_fields["task"].annotation.__args__)  # type: ignore[union-attr]
