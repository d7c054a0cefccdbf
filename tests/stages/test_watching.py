import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.errors import ConfigError
from luthier.runs.directory import RunDirectory
from luthier.stages.arguments import seconds_of
from luthier.stages.supervise import supervise
from tests.runs.test_watch import watched_process

PLANNED = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "calls").open("a").write(json.dumps(sys.argv[2:]) + "\\n")
count = len((folder / "calls").read_text().splitlines())
ending, step = json.loads((folder / "plan").read_text())[count - 1]
if step is not None:
    (folder / "runs" / "r").mkdir(parents=True, exist_ok=True)
    before = json.loads((folder / "runs" / "r" / "run.json").read_text()) if (folder / "runs" / "r" / "run.json").exists() else {}
    heartbeat = {"pid": os.getpid(), "stage": "pretrain", "step": step, "steps": 99}
    record = {**before, "status": "running", "stage": "pretrain", "heartbeat": heartbeat}
    (folder / "runs" / "r" / "run.json").write_text(json.dumps(record))
(folder / "ready").write_text(str(os.getpid()))
if ending == "wait":
    time.sleep(60)
elif ending < 0:
    os.kill(os.getpid(), -ending)
sys.exit(ending)
"""


def planned(folder: Path, plan: list[tuple[int | str, int | None]]) -> tuple[str, ...]:
    """A program that ends as planned, call after call, with its heart's last step."""
    (folder / "plan").write_text(json.dumps(plan))
    (folder / "runs").mkdir(exist_ok=True)
    return (sys.executable, "-c", PLANNED, str(folder))


def attempt(folder: Path, plan: list[tuple[int | str, int | None]], restarts: int = 5) -> tuple[int, list[float], int]:
    """Supervise a plan: the exit code, the waits, and how often it was started."""
    waits: list[float] = []
    code = supervise(["run", "x.toml"], folder / "runs", restarts, pause=waits.append, program=planned(folder, plan))
    return code, waits, len((folder / "calls").read_text().splitlines())


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d", 86_400), ("1.5h", 5400), (" 1D2h ", 93_600)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "-1h", "30m2h", "2 hours", "1.2.3h", "nan s", "."])
def test_a_time_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--for: a time above zero"):
        seconds_of(text)


@pytest.mark.parametrize("code", [0, 2, 3, 130, 143])
def test_a_supervised_run_that_ends_on_its_own_account_is_not_restarted(tmp_path: Path, code: int) -> None:
    assert attempt(tmp_path, [(code, 5)]) == (code, [], 1)


def test_crashes_are_restarted_with_growing_waits_until_nothing_comes_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, waits, started = attempt(tmp_path, [(-9, 5), (1, 5), (-11, 4), (1, 5)], restarts=3)
    assert (code, waits, started) == (1, [1, 2, 4], 4)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "supervisor: it died of signal 9 after step 5; restart 1 of 3 in 1 s"
    assert len(said) == 4 and "3 restarts in a row came no further" in said[3]
    restarts = json.loads((tmp_path / "runs" / "r" / "run.json").read_text())["restarts"]
    assert [entry["because"] for entry in restarts] == ["it died of signal 9", "it failed with exit code 1", "it died of signal 11"]
    assert restarts[0]["last_step"] == 5 and "killed from outside" in restarts[0]["last_words"]


def test_progress_begins_the_count_anew(tmp_path: Path) -> None:
    plan = [(-9, 1), (-9, 1), (-9, 2), (-9, 2), (-9, 3), (-9, 3), (0, 4)]
    assert attempt(tmp_path, plan, restarts=2) == (0, [1, 2, 1, 2, 1, 2], 7)


def test_waits_end_at_a_minute(tmp_path: Path) -> None:
    code, waits, started = attempt(tmp_path, [(-9, None)] * 9, restarts=8)
    assert (code, waits, started) == (137, [1, 2, 4, 8, 16, 32, 60, 60], 9)


def test_restarts_share_one_time_budget(tmp_path: Path) -> None:
    program = planned(tmp_path, [(1, 1), (0, 2)])
    assert supervise(["run"], tmp_path / "runs", 5, seconds=100, pause=lambda wait: None, program=program) == 0
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [words[:2] for words in calls] == [["run", "--for"]] * 2
    assert all(0 < seconds_of(words[2]) <= 100 for words in calls)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_signals_are_handed_on_and_end_it(tmp_path: Path, number: int, code: int) -> None:
    """A3 A5."""
    arguments = [["run"], str(tmp_path / "runs"), list(planned(tmp_path, [("wait", 1)]))]
    program = "import json, sys; from pathlib import Path; from luthier.stages.supervise import supervise;"
    program += "words, root, program = json.loads(sys.argv[1]); sys.exit(supervise(words, Path(root), 5, program=program))"
    parent = subprocess.Popen([sys.executable, "-c", program, json.dumps(arguments)], stderr=subprocess.DEVNULL)
    while not (tmp_path / "ready").exists() or not (tmp_path / "ready").read_text():
        assert parent.poll() is None
        time.sleep(0.02)
    child = int((tmp_path / "ready").read_text())
    assert os.getsid(child) != os.getsid(parent.pid), "Ctrl-C of a terminal must not reach it twice"
    parent.send_signal(number)
    assert parent.wait(20) == code
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_signal_while_it_waits_ends_it(tmp_path: Path) -> None:
    program = planned(tmp_path, [(-9, 1)])
    assert supervise(["run"], tmp_path / "runs", 5, pause=lambda wait: os.kill(os.getpid(), signal.SIGTERM), program=program) == 143


def test_supervise_and_chat_are_refused_together(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", *tiny, "--supervise", "--chat"]) == 2
    assert "do not go together" in capsys.readouterr().err
    assert call(["run", *tiny, "--for", "soon"]) == 2
    assert "for example 90s, 30m" in capsys.readouterr().err


def test_stop_is_refused_where_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r").mkdir()
    RunDirectory(tmp_path / "r").update(status="running")
    assert call(["stop", "r", "--root", str(tmp_path)]) == 2
    assert "not running, its status is 'crashed'" in capsys.readouterr().err
    assert not (tmp_path / "r" / "STOP").exists()


def test_stop_asks_a_run_and_names_its_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = watched_process(tmp_path / "r", "\nwhile not (run.path / 'STOP').exists(): time.sleep(0.02)")
    assert call(["stop", "r", "--root", str(tmp_path)]) == 0
    assert f"asked r to stop (process {child.pid} on " in capsys.readouterr().out
    assert child.wait(20) == 0


def test_runs_shows_the_dead_the_corrupt_and_the_sleepy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """G1 G4."""
    for name in ("corrupt", "dead", "done"):
        (tmp_path / name).mkdir()
    (tmp_path / "corrupt" / "run.json").write_text("{")
    gaps = [{"at": "2026-01-01T00:00:00+0000", "seconds": 28_800.0, "kind": "sleep"}]
    heartbeat = {"at": "2026-01-01T08:00:00+0000", "pid": 7, "stage": "pretrain", "step": 12, "steps": 99}
    RunDirectory(tmp_path / "dead").update(status="running", stage="pretrain", heartbeat=heartbeat, gaps=gaps)
    RunDirectory(tmp_path / "done").update(status="complete")
    root = ["--root", str(tmp_path)]
    assert call(["runs", *root]) == 0
    alone = capsys.readouterr().out
    assert call(["runs", "list", *root]) == 0
    assert capsys.readouterr().out == alone
    lines = {line.split()[0]: line for line in alone.splitlines()}
    assert "crashed" in lines["dead"] and "pretrain 12/99" in lines["dead"] and "killed from outside" in lines["dead"]
    assert "(slept 1 times)" in lines["dead"] and "corrupt" in lines["corrupt"].split()[1] and "complete" in lines["done"]
    assert call(["runs", "show", "dead", *root]) == 0
    shown = capsys.readouterr().out
    assert "the machine slept for 8h00m" in shown and "2026-01-01T08:00:00+0000, process 7, pretrain 12/99" in shown
    assert call(["runs", "show", "dead", "--json", *root]) == 0
    assert json.loads(capsys.readouterr().out)["gaps"] == gaps


def _begin(arguments: list[str], until: str) -> subprocess.Popen[str]:
    """Start luthier; return when a line of its log begins with `until`."""
    child = subprocess.Popen([sys.executable, "-m", "luthier", *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert child.stderr is not None
    said: list[str] = []
    for line in child.stderr:
        said.append(line)
        if line.startswith(until):
            return child
    raise AssertionError(f"it ended with {child.wait()} before {until!r}: {''.join(said)}")


def _rest(child: subprocess.Popen[str]) -> str:
    assert child.stderr is not None
    with child.stderr:
        return child.stderr.read()


PLAIN = ["pretrain.compile=off", "pretrain.eval_every=1", "pretrain.checkpoint_every=5"]


def test_the_stop_verb_and_the_time_budget_save_and_name_the_command_that_goes_on(tiny: list[str], tmp_path: Path) -> None:
    """A3."""
    arguments = ["pretrain", *tiny, *PLAIN, "pretrain.steps=50000"]
    going_on = f"go on with: luthier {' '.join(arguments)}\n"
    child = _begin(arguments, "pretrain: step 6/")
    run = next((tmp_path / "runs").glob("tiny-*"))
    assert call(["stop", str(run)]) == 0
    rest = _rest(child)
    assert child.wait() == 130 and "stopped (the STOP file)" in rest and rest.endswith(going_on) and not (run / "STOP").exists()
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"

    (run / "STOP").touch()  # of an earlier attempt: it must not stop the next one
    child = _begin([*arguments, "--for", "2s"], "pretrain: going on from step")
    rest = _rest(child)
    assert child.wait() == 130 and "the time budget of 2s is used up" in rest and rest.endswith(going_on)


def test_a_second_ctrl_c_ends_at_once_and_the_previous_checkpoint_is_intact(tiny: list[str]) -> None:
    """A4."""
    long_steps = ["pretrain.global_batch_tokens=16384", "pretrain.micro_batch_size=8", "pretrain.checkpoint_every=1"]
    arguments = ["pretrain", *tiny, *PLAIN, *long_steps, "pretrain.steps=500"]
    child = _begin(arguments, "pretrain: step 2/")
    for _ in range(2):
        child.send_signal(signal.SIGINT)
        time.sleep(0.1)
    rest = _rest(child)
    assert child.wait() == 130 and "everything is saved" not in rest and "Traceback" not in rest
    child = _begin(arguments, "pretrain: going on from step")
    child.kill()
    assert "older checkpoint" not in _rest(child) and child.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_supervised_run_goes_on_after_kill_9(tiny: list[str], tmp_path: Path) -> None:
    """A1 A12."""
    parent = _begin(["run", *tiny, "--supervise", "--restarts", "2"], "pretrain: step 8/")
    run = next((tmp_path / "runs").glob("tiny-*"))
    os.kill(json.loads((run / "lock").read_text())["pid"], signal.SIGKILL)
    rest = _rest(parent)
    assert parent.wait() == 0 and "supervisor: it died of signal 9" in rest
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "complete" and len(record["restarts"]) == 1 and len(record["attempts"]) == 2
