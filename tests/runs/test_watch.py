import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from luthier.errors import Interrupted
from luthier.runs import progress
from luthier.runs.directory import RunDirectory
from luthier.runs.lock import locked
from luthier.runs.progress import Bar, Progress
from luthier.runs.registry import NO_WORDS, look_at
from luthier.runs.watch import Clocks, Watch, watching

HOUR = 3600.0
WATCHED = """
import faulthandler, os, sys, time
from pathlib import Path
from luthier.runs.directory import RunDirectory
from luthier.runs.lock import locked
from luthier.runs.progress import Progress
from luthier.runs.watch import watching
run = RunDirectory(Path(sys.argv[1]))
with locked(run.path):
    run.update(status="running", stage="pretrain")
    with watching(run, Progress(), every_seconds=0.05) as watch:
        watch.note("pretrain", 7, 20)
        watch.beat()
        print("ready", flush=True)
        exec(sys.argv[2])
    run.update(status="complete")
"""


class Talk(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class SetClocks:
    """Clocks that stand still until told."""

    def __init__(self) -> None:
        self.monotonic, self.boottime, self.wall = 100.0, 5000.0, 1.7e9

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.monotonic, lambda: self.boottime, lambda: self.wall)

    def pass_by(self, awake: float, asleep: float = 0.0, set_by: float = 0.0) -> None:
        self.monotonic += awake
        self.boottime += awake + asleep
        self.wall += awake + asleep + set_by


def watched_process(path: Path, code: str) -> subprocess.Popen[str]:
    """Start a process that watches a run and then executes `code`; return when it does."""
    path.mkdir(exist_ok=True)
    child = subprocess.Popen([sys.executable, "-c", WATCHED, str(path), code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.stdout.close()
    return child


def test_a_heartbeat_says_where_the_run_is(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with watching(run, Progress()) as watch:
        assert run.record["heartbeat"] == {
            "at": run.record["heartbeat"]["at"],
            "pid": os.getpid(),
            "stage": None,
            "step": None,
            "steps": None,
        }
        for step in (5, 6, 7):
            watch.note("pretrain", step, 20)
    assert {key: run.record["heartbeat"][key] for key in ("stage", "step", "steps")} == {"stage": "pretrain", "step": 7, "steps": 20}
    assert run.record["command"][1:] == sys.argv[1:] and run.record["gaps"] == []
    with watching(run, Progress()) as watch:
        watch.note("pretrain", 6, 20)
    assert [attempt["step"] for attempt in run.record["attempts"]] == [5, 6], "each attempt's first step is kept"


def test_the_heart_beats_by_itself(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with watching(run, Progress(), every_seconds=0.01) as watch:
        watch.note("sft", 1, 2)
        end = time.monotonic() + 30
        while run.record["heartbeat"]["step"] != 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert run.record["heartbeat"]["step"] == 1


@pytest.mark.parametrize(
    ("awake", "asleep", "set_by", "kinds", "seconds"),
    [
        (10, 0, 0, [], []),
        (30, 0, 0, [], []),
        (10, 8 * HOUR, 0, ["sleep"], [8 * HOUR]),
        (70, 0, 0, ["stopped"], [60]),
        (10, 0, 8 * HOUR, ["clock"], [8 * HOUR]),
        (10, 0, -HOUR, ["clock"], [-HOUR]),
        (10, 60, -HOUR, ["sleep", "clock"], [60, -HOUR]),
        (10, 0, 2, [], []),
    ],
)
def test_clocks_tell_sleep_from_a_stop_and_from_a_set_clock(
    tmp_path: Path, awake: float, asleep: float, set_by: float, kinds: list[str], seconds: list[float]
) -> None:
    """A6."""
    run, talk, hands = RunDirectory(tmp_path), Talk(), SetClocks()
    watch = Watch(run, talk, 10.0, hands.clocks())
    hands.pass_by(awake, asleep, set_by)
    watch.beat()
    assert [gap["kind"] for gap in watch.gaps] == kinds and [gap["seconds"] for gap in watch.gaps] == seconds
    assert run.record["gaps"] == watch.gaps and len(talk.lines) == len(kinds)
    hands.pass_by(10)
    watch.beat()
    assert len(watch.gaps) == len(kinds), "a gap is noted once"
    later = Watch(run, talk, 10.0, hands.clocks())
    later.beat()
    assert len(run.record["gaps"]) == len(kinds), "a later attempt keeps the gaps of an earlier one"


def test_rates_do_not_follow_a_set_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A6."""
    now = [50.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = Bar("x", 100, "tokens")
    for wall in (1.7e9, 1.7e9 + 8 * HOUR, 1.7e9 - HOUR):
        monkeypatch.setattr(progress.time, "time", lambda wall=wall: wall)
        now[0] += 1.0
        bar.advance(10)
    assert bar.rate == pytest.approx(10.0) and bar.seconds_left == pytest.approx(7.0)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGSTOP")
def test_a_stopped_process_notices_when_it_goes_on(tmp_path: Path) -> None:
    """A6."""
    child = watched_process(tmp_path / "run", "while not watch.gaps: time.sleep(0.02)")
    child.send_signal(signal.SIGSTOP)
    time.sleep(0.6)
    child.send_signal(signal.SIGCONT)
    assert child.wait(30) == 0
    record = look_at(tmp_path / "run")
    assert record["status"] == "complete" and record["sleeps"] == 1
    assert record["gaps"][0]["kind"] == "stopped" and record["gaps"][0]["seconds"] >= 0.4


def test_a_killed_run_is_crashed_without_last_words(tmp_path: Path) -> None:
    """G1."""
    child = watched_process(tmp_path / "run", "time.sleep(60)")
    assert look_at(tmp_path / "run")["status"] == "running"
    child.kill()
    child.wait()
    record = look_at(tmp_path / "run")
    assert (record["status"], record["last_step"], record["steps"], record["last_words"]) == ("crashed", 7, 20, NO_WORDS)


def test_a_segmentation_fault_leaves_last_words(tmp_path: Path) -> None:
    """G1."""
    child = watched_process(tmp_path / "run", "faulthandler._sigsegv()")
    assert child.wait() < 0
    record = look_at(tmp_path / "run")
    assert record["status"] == "crashed" and record["last_words"].startswith("Fatal Python error: Segmentation fault, File ")
    with watching(RunDirectory(tmp_path / "run"), Progress()):
        pass
    logs = sorted(path.name for path in (tmp_path / "run" / "logs").iterdir())
    assert len(logs) == 2 and logs[1] == "crash.txt", "the next attempt keeps the report of the crash under another name"
    assert (tmp_path / "run" / "logs" / "crash.txt").stat().st_size == 0


def test_errors_leave_their_tracebacks_and_wishes_to_stop_do_not(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = tmp_path / "logs" / "errors.txt"
    for wish in (KeyboardInterrupt(), Interrupted("stopped")):
        with pytest.raises(type(wish)), watching(run, Progress()):
            raise wish
    assert not log.exists()
    with pytest.raises(ZeroDivisionError), watching(run, Progress()):
        _ = 1 / 0
    text = log.read_text()
    assert "ZeroDivisionError" in text and "test_watch.py" in text and f"process {os.getpid()}" in text


def test_errors_of_other_threads_are_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    with watching(RunDirectory(tmp_path), Progress()):
        thread = threading.Thread(target=lambda: {}["absent"])
        thread.start()
        thread.join()
    assert "KeyError: 'absent'" in (tmp_path / "logs" / "errors.txt").read_text() and len(seen) == 1
    assert threading.excepthook == seen.append


def test_faulthandler_is_left_as_it_was(tmp_path: Path) -> None:
    before = faulthandler.is_enabled()
    with watching(RunDirectory(tmp_path), Progress()):
        assert faulthandler.is_enabled()
    assert faulthandler.is_enabled() == before


def test_a_full_disk_only_delays_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B2."""
    run = RunDirectory(tmp_path)
    update = run.update

    def full(**values: object) -> None:
        raise OSError(28, "No space left on device")

    with watching(run, Progress()) as watch:
        monkeypatch.setattr(run, "update", full)
        watch.note("pretrain", 3, 9)
        watch.beat()
        monkeypatch.setattr(run, "update", update)
    assert run.record["heartbeat"]["step"] == 3


def test_threads_do_not_lose_each_others_fields(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    threads = [threading.Thread(target=lambda n=n: [run.update(**{f"field{n}": i}) for i in range(20)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: run.record[name] for name in run.record if name.startswith("field")} == {f"field{n}": 19 for n in range(4)}


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path: Path) -> None:
    """A12."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "lock").write_text(json.dumps({"pid": dead.pid, "host": "elsewhere", "started": "long ago"}))
    inner = tmp_path / "inner"
    inner.mkdir()
    for path in (tmp_path / f"run.json.tmp-{dead.pid}", inner / f"x.tmp-{dead.pid}", tmp_path / f"a.tmp-{os.getpid()}"):
        path.write_text("half")
    for path in (tmp_path / f"run.json.tmp-{os.getppid()}", tmp_path / "notes.tmp-mine"):
        path.write_text("kept")
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["lock", "notes.tmp-mine", f"run.json.tmp-{os.getppid()}"]
