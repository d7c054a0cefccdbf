"""The fast part of the fault experiments; `make faults`, or the slow test below, runs all of them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.faults import kills, power, storage
from tests.faults.__main__ import EXPERIMENTS, table, together, tried
from tests.faults.bench import Bench, Row
from tests.faults.damage import b3_truncated, b4_flipped, b5_missing_and_swapped, b9_unfinished_newest


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Generator[Bench, None, None]:
    with Bench(tmp_path_factory.mktemp("faults")) as bench:
        yield bench


def require_survived(row: Row, tries: int) -> None:
    assert row.failures == []
    assert row.tries >= tries, "too few tries"


def test_killed_inside_a_write_and_around_a_rename_gives_the_same_model(bench: Bench) -> None:
    """A2."""
    require_survived(kills.a2_killed_at_three_calls(bench), 3)


def test_killed_six_times_in_one_run_gives_the_same_model(bench: Bench) -> None:
    """A1. All 150 kills are in the slow test."""
    require_survived(kills.a1_killed_again_and_again(bench, seeds=[1]), 1)


def test_told_to_stop_at_any_operation_it_stops_politely_and_goes_on(bench: Bench) -> None:
    """A3, A5. More of them in the slow test."""
    require_survived(kills.a5_told_to_stop(bench, stride=331, first=30), 2)


def test_the_same_command_after_the_end_writes_nothing_and_no_epoch_is_skipped(bench: Bench) -> None:
    """A8."""
    require_survived(kills.a8_at_the_very_end(bench), 3)


def test_what_dead_processes_left_is_cleaned_without_a_user(bench: Bench) -> None:
    """A12."""
    require_survived(kills.a12_leftovers_of_the_dead(bench), 3)


def test_a_full_disk_at_any_operation_loses_nothing(bench: Bench) -> None:
    """B1. Every operation is in the slow test."""
    require_survived(storage.b1_full_once(bench, stride=131, first=5), 5)
    require_survived(storage.b1_full_from_then_on(bench, stride=331, first=50), 2)
    require_survived(storage.b1_broken_disk(bench, stride=331, first=150), 2)


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_taken(bench: Bench) -> None:
    """B3."""
    require_survived(b3_truncated(bench, stride=7), 24)


def test_every_flipped_bit_of_a_checkpoint_is_found(bench: Bench) -> None:
    """B4."""
    require_survived(b4_flipped(bench, flips=200, resumed=3), 200)


def test_missing_and_swapped_files_are_found_and_foreign_ones_ignored(bench: Bench) -> None:
    """B5."""
    require_survived(b5_missing_and_swapped(bench, stride=6), 10)


def test_odd_slow_and_impossible_places_work_or_are_one_sentence(bench: Bench) -> None:
    """B7."""
    require_survived(storage.b7_paths(bench), 12)


def test_the_newest_committed_checkpoint_outlasts_power_cuts(bench: Bench) -> None:
    """B8."""
    require_survived(power.b8_power_cuts(bench, points=100, resumed=2), 100)


def test_retention_never_deletes_the_last_whole_checkpoint(bench: Bench) -> None:
    """B9."""
    require_survived(b9_unfinished_newest(bench, deletions=(1,)), 6)


@pytest.mark.slow
@pytest.mark.parametrize("fault", EXPERIMENTS)
def test_all_experiments(fault: str) -> None:
    """A1, A2, A3, A5, A8, A12, B1, B3, B4, B5, B7, B8, B9. What `make faults` runs."""
    rows = together([tried(experiment) for experiment in EXPERIMENTS[fault]])
    assert all(row.tries and not row.failures for row in rows), "\n".join(table(rows))


def test_a_table_shows_what_was_not_survived() -> None:
    row = Row("B4", "one bit flipped", 3)
    row.note("at 17", ["not found"])
    lines = table(together([row, Row("B4", "one bit flipped", 2)]))
    assert lines[1].split()[:3] == ["B4", "6", "5"]
    assert lines[-1] == "NOT SURVIVED B4: at 17: not found"


def test_faults_are_found_in_docstrings(tmp_path: Path) -> None:
    from tests.faults import coverage

    (tmp_path / "tests").mkdir()
    cases = {"one": "B6.", "two": "A3, A5. Both.", "none": "About B7.", "other": "A grade."}
    text = "".join(f'def test_{name}() -> None:\n    """{words}"""\n' for name, words in cases.items())
    (tmp_path / "tests" / "test_it.py").write_text(text)
    found = {fault: tests for fault, tests in coverage.covering(tmp_path / "tests").items() if tests}
    assert found == {"A3": ["tests/test_it.py::test_two"], "A5": ["tests/test_it.py::test_two"], "B6": ["tests/test_it.py::test_one"]}
    assert "A1" in coverage.lines(tmp_path / "tests")[-1]
