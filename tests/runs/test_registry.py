import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.config.load import validate
from luthier.errors import ConfigError, LockedError
from luthier.runs import registry
from luthier.runs.directory import RunDirectory
from luthier.runs.lock import holder, is_locked, locked
from luthier.runs.registry import NO_WORDS, find_run, list_runs
from tests.runs.test_watch import watched_process

WRITER = """
import sys
from pathlib import Path
from luthier.runs.directory import RunDirectory
from luthier.runs.lock import locked
run = RunDirectory(Path(sys.argv[1]))
with locked(run.path):
    run.update(status="running")
    print("ready", flush=True)
    i = 0
    while True:
        i += 1
        run.update(count=i, twice=2 * i, ballast="x" * (i * 7919 % 20_000))
"""

KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from luthier.runs.directory import RunDirectory
run, module = RunDirectory(Path(sys.argv[1])), importlib.import_module(sys.argv[2])
real, calls = getattr(module, sys.argv[3]), []
def count(*arguments, **keywords):
    calls.append(1)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **keywords)
setattr(module, sys.argv[3], count)
run.update(count=2)
"""


def make_run(root: Path, folder: str, **values: object) -> RunDirectory:
    run = RunDirectory(root / folder)
    run.path.mkdir(parents=True)
    run.update(**values)
    return run


@pytest.mark.parametrize("tries", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_while_writing_the_record_is_always_whole(tmp_path: Path, tries: int) -> None:
    """G1."""
    older = make_run(tmp_path, "older", status="complete", created="2020")
    before = (older.path / "run.json").read_bytes()
    path = tmp_path / "victim"
    path.mkdir()
    chance = random.Random(0)
    for _ in range(tries):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(chance.random() * 0.05)
        child.kill()
        child.wait()
        child.stdout.close()
        found = {record["name"]: record for record in list_runs(tmp_path)}
        assert found["victim"]["status"] == "crashed" and found["victim"]["last_words"] == NO_WORDS
        assert found["victim"].get("twice", 0) == 2 * found["victim"].get("count", 0)
    assert (older.path / "run.json").read_bytes() == before and found["older"]["status"] == "complete"
    with locked(path):
        assert sorted(p.name for p in path.iterdir()) == ["lock", "run.json"], "the next holder of the lock removes half files"


@pytest.mark.parametrize(
    ("module", "call", "nth", "count"), [("builtins", "open", 1, 1), ("os", "fsync", 1, 1), ("os", "replace", 1, 1), ("os", "fsync", 2, 2)]
)
def test_killed_before_each_call_that_writes_the_record(tmp_path: Path, module: str, call: str, nth: int, count: int) -> None:
    """G1."""
    run = make_run(tmp_path, "victim", status="running", count=1)
    child = subprocess.run([sys.executable, "-c", KILLED, str(run.path), module, call, str(nth)], check=False)
    assert child.returncode == -signal.SIGKILL
    record = list_runs(tmp_path)[0]
    assert record["status"] == "crashed" and record["count"] == count


def _work(root: str, number: int) -> None:
    recipe = validate({"run": {"name": f"r{number % 4}", "seed": number}, "runs": {"root": root}})
    for i in range(5):
        run = RunDirectory.open(recipe)
        with locked(run.path):
            run.update(status="running", **{f"field{i}": i})
        assert run.path.name in {record["name"] for record in list_runs(Path(root))}
    run.update(status="complete")


def test_eight_processes_under_one_root_lose_nothing(tmp_path: Path) -> None:
    """G2."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(str(tmp_path), number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    found = list_runs(tmp_path)
    assert len(found) == 8 and {record["status"] for record in found} == {"complete"}
    assert all(record[f"field{i}"] == i for record in found for i in range(5))
    assert not list(tmp_path.rglob("*.tmp-*"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"stages": 5}', b"0" * 100_000, None])
def test_one_corrupt_run_does_not_hide_the_others(tmp_path: Path, content: bytes | None) -> None:
    """G4."""
    make_run(tmp_path, "good", status="complete")
    (tmp_path / "bad").mkdir()
    if content is None:
        (tmp_path / "bad" / "run.json").mkdir()
    else:
        (tmp_path / "bad" / "run.json").write_bytes(content)
    assert {record["name"]: record["status"] for record in list_runs(tmp_path)} == {"good": "complete", "bad": "corrupt"}


def test_fields_of_wrong_kinds_do_not_stop_the_list(tmp_path: Path) -> None:
    """G4."""
    make_run(tmp_path, "odd", status="running", name=3, created=[], heartbeat="x", gaps={"a": 1}, stage_directory=7, reason=5)
    make_run(tmp_path, "odder", status=None, heartbeat={"step": "x"}, gaps=[1, None])
    assert {record["name"] for record in list_runs(tmp_path)} == {"odd", "odder"}


def test_a_run_that_died_before_its_record_was_written_is_crashed(tmp_path: Path) -> None:
    """G1."""
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "config.toml").write_text("")
    (tmp_path / "store").mkdir()
    assert [(record["name"], record["status"]) for record in list_runs(tmp_path)] == [("early", "crashed")]


def test_a_dead_runs_last_step_is_read_from_its_metrics(tmp_path: Path) -> None:
    heartbeat = {"stage": "pretrain", "step": 40, "steps": 100}
    run = make_run(tmp_path, "dead", status="running", stage="pretrain", heartbeat=heartbeat, stage_directory="../store/pretrain/k")
    assert list_runs(tmp_path)[0]["last_step"] == 40
    metrics = tmp_path / "store" / "pretrain" / "k" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("".join(json.dumps({"step": i, "pad": "x" * 200}) + "\n" for i in range(1, 1001)) + '{"step": 9999, "to')
    assert list_runs(tmp_path)[0]["last_step"] == 1000
    run.update(stage="eval", stage_directory="../store/eval/k")
    assert list_runs(tmp_path)[0]["last_step"] is None, "another stage's steps are not this one's"


def test_metrics_are_not_opened_to_list_complete_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G5."""
    for i in range(10_000):
        path = tmp_path / f"r{i:05}"
        path.mkdir()
        (path / "run.json").write_text(f'{{"status": "complete", "created": "{i:05}", "stages": {{}}, "stage_directory": "x"}}')
    opened: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if watching and event == "open" else None)
    found = list_runs(tmp_path)
    watching.clear()
    assert len(found) == 10_000 and found[0]["name"] == "r09999"
    assert {Path(name).name for name in opened} == {"run.json"} and len(opened) == 10_000, "one small file a run, and nothing else"
    monkeypatch.setattr(RunDirectory, "record", property(lambda run: pytest.fail("a name is found without any record")))
    assert find_run("r00421", tmp_path).path.name == "r00421"


def test_a_run_is_never_guessed(tmp_path: Path) -> None:
    make_run(tmp_path, "alpha-1")
    make_run(tmp_path, "alpha-2")
    assert find_run("alpha-2", tmp_path).path == tmp_path / "alpha-2" == find_run(str(tmp_path / "alpha-2"), tmp_path).path
    with pytest.raises(ConfigError, match="the beginning of 2 runs: alpha-1, alpha-2"):
        find_run("alpha", tmp_path)
    with pytest.raises(ConfigError, match="no such run"):
        find_run("beta", tmp_path)


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    """A13."""
    child = watched_process(tmp_path / "run", "time.sleep(60)")
    try:
        with pytest.raises(LockedError, match=rf"process {child.pid} on .*, since \d{{4}}-") as caught, locked(tmp_path / "run"):
            pass
        assert caught.value.exit_code == 3 and holder(tmp_path / "run")["pid"] == child.pid
        assert child.poll() is None and is_locked(tmp_path / "run")
    finally:
        child.kill()
        child.wait()


def test_one_who_only_asks_does_not_keep_a_run_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A13."""
    answers = [False, False, True]
    monkeypatch.setattr("luthier.runs.lock._try_lock", lambda descriptor: answers.pop(0))
    with locked(tmp_path):
        assert answers == []


def test_reasons_are_shown_in_one_line(tmp_path: Path) -> None:
    make_run(tmp_path, "failed", status="failed", reason="loss is not finite\n  lower the rate")
    assert list_runs(tmp_path)[0]["last_words"] == "loss is not finite"
    assert registry.runs_root() == Path(os.environ["LUTHIER_RUNS"])
