"""The same work by each engine; workers and ranks that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from luthier.data.array_job import ArrayJob
from luthier.data.engine import Engine, Spread, Tick, engine_for, rank_and_world
from luthier.data.workers import Workers
from luthier.errors import ConfigError, DataError, HardwareFailure, MissingExtraError
from luthier.runs.files import write_text
from luthier.runs.progress import Bar, Progress


class Squared(NamedTuple):
    """A number to be squared, or something to go wrong."""

    number: int
    output: Path
    size: int = 1
    fault: str = ""


def square(task: Squared, tick: Tick) -> None:
    if task.fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.fault == "wrong":
        raise DataError(f"number {task.number} is wrong", fix="take another")
    if task.fault == "bug":
        raise ZeroDivisionError("ours")
    if task.fault == "slow":
        time.sleep(60)
    if not task.output.exists():
        tick(task.size)
        write_text(task.output, f"{task.number**2} by {os.getpid()}")


def tasks(folder: Path, count: int = 6, **faults: str) -> list[Squared]:
    return [Squared(n, folder / f"{n}.txt", n, faults.get(f"n{n}", "")) for n in range(count)]


def squares(todo: list[Squared]) -> list[int]:
    return [int(task.output.read_text().split()[0]) for task in todo]


def workers_of(todo: list[Squared]) -> set[str]:
    return {task.output.read_text().split()[2] for task in todo}


def test_workers_do_what_one_process_does(tmp_path: Path) -> None:
    todo = [*tasks(tmp_path), *tasks(tmp_path)]
    bar = Bar("", None, "")
    with Workers(2, worth=0) as engine:
        engine.run(square, todo, bar)
        assert squares(todo) == [n**2 for n in range(6)] * 2
        assert bar.done == sum(range(6)), "each output once"
        assert str(os.getpid()) not in workers_of(todo)
        engine.mapper()(quiet, [Squared(3, tmp_path / "again.txt")])
    assert (tmp_path / "again.txt").exists()


def quiet(task: Squared) -> None:
    square(task, lambda amount: None)


def test_little_is_done_in_this_process(tmp_path: Path) -> None:
    todo = tasks(tmp_path)
    with Workers(8) as engine:
        engine.run(square, todo)
    assert workers_of(todo) == {str(os.getpid())}


def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    with (
        Workers(2, worth=0) as engine,
        pytest.raises(HardwareFailure, match=r"3\.txt: .* ended by SIGKILL, .* memory ran out\n.*--workers 1"),
    ):
        engine.run(square, tasks(tmp_path, n3="killed"))


def test_errors_of_workers_keep_their_words_and_bugs_their_traceback(tmp_path: Path) -> None:
    with Workers(2, worth=0) as engine, pytest.raises(DataError, match=r"number 2 is wrong\n  take another"):
        engine.run(square, tasks(tmp_path, n2="wrong"))
    with Workers(2, worth=0) as engine, pytest.raises(RuntimeError, match=r"(?s)5\.txt.*ZeroDivisionError: ours"):
        engine.run(square, tasks(tmp_path, n5="bug"))


def test_an_interruption_ends_the_workers(tmp_path: Path) -> None:
    code = (
        "from tests.data.test_engine import *\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with Workers(2, worth=0) as engine: engine.run(square, tasks(Path(sys.argv[1]), n1='slow', n2='slow'))\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (tmp_path / "0.txt").exists() or (tmp_path / "5.txt").exists():
                break
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert out == "interrupted\n"
    assert process.returncode == 0


def test_ranks_share_tasks_and_wait_for_each_other(tmp_path: Path) -> None:
    import threading

    todo = tasks(tmp_path, 7)
    engines = [ArrayJob(Engine(), rank, 3, tmp_path, Progress(), patience=30) for rank in range(3)]
    done: list[int] = []

    def run(rank: int) -> None:
        with engines[rank] as engine:
            engine.run(square, todo)
            done.append(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(3)]
    for thread in threads[:2]:
        thread.start()
    time.sleep(0.5)
    assert done == [] and len(list(tmp_path.glob("*.txt"))) == 5, "the third rank's two are missing"
    threads[2].start()
    for thread in threads:
        thread.join(20)
    assert sorted(done) == [0, 1, 2]
    assert squares(todo) == [n**2 for n in range(7)]
    assert [engine.leads for engine in engines] == [True, False, False]


def test_the_tasks_of_a_dead_rank_are_done(tmp_path: Path) -> None:
    todo = tasks(tmp_path, 7)
    with ArrayJob(Engine(), 1, 3, tmp_path, Progress(), patience=0.3) as engine:
        engine.run(square, todo)
    assert squares(todo) == [n**2 for n in range(7)]


def test_ranks_are_read_from_schedulers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="none of SLURM"):
        rank_and_world("auto", None)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    assert rank_and_world("auto", None) == (4, 8)
    assert rank_and_world("2", 3) == (2, 3)
    assert rank_and_world(None, None) == (None, 1)
    for rank, world in (("3", 3), ("x", 3), ("1", None), (None, 4)):
        with pytest.raises(ConfigError, match="--rank"):
            rank_and_world(rank, world)


def test_ray_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"luthier\[ray\]"):
        engine_for(Spread(engine="ray"), tmp_path, Progress())
