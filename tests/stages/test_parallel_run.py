"""Recipes trained by several processes: the same tokens, the same losses, whatever number goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import call
from tests.ranks import ROOT, Part, perform
from tests.stages.conftest import make_tiny
from tests.stages.test_grpo import posted
from tests.stages.test_post import SMALL

STEPS = 24
OPTIONS = ["optim.name=adamw", "optim.lr=1e-3", "pretrain.precision=fp32", "sft.precision=fp32"]


def numbers(root: Path, stage: str) -> list[dict[str, Any]]:
    """Step, losses and norm of each line of the metrics."""
    lines = next(root.glob(f"store/{stage}/*/metrics.jsonl")).read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key in ("step", "train/loss", "val/loss")} for line in lines]


def require_near(root: Path, other: Path, stage: str) -> None:
    ours, theirs = numbers(root, stage), numbers(other, stage)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for line, there in zip(ours, theirs, strict=True):
        assert line == pytest.approx(there, rel=1e-6)


def together(parts: list[Part]) -> list[list[int]]:
    """The tokens of each step, of all ranks in order."""
    return [[token for share in shares for token in share] for shares in zip(*(part.result["tokens"] for part in parts), strict=True)]


def test_any_number_of_ranks_goes_on_and_learns_what_one_does(tmp_path: Path) -> None:
    """A7. From 1 rank to 2, to 1, to 4; asked to stop, all wait until the leading one has saved."""
    recipe = [*make_tiny(tmp_path), *OPTIONS]

    def play(size: int, root: str, verb: str = "pretrain", **more: Any) -> dict[str, Any]:
        return {"size": size, "arguments": [verb, *recipe, f"runs.root={tmp_path / root}"], "root": str(tmp_path / root), **more}

    plays = [
        play(1, "one"),
        play(1, "several", stop_after=4),
        play(2, "several", stop_after=7, slow_to_save=0.5),
        play(1, "several", stop_after=3),
        play(4, "several"),
        play(1, "one", "sft"),
        play(2, "several", "sft"),
    ]
    one, *several, tuned_by_one, tuned_by_two = perform("tests.stages.ranks", plays)
    said = [part.said for parts in several for part in parts]
    assert one[0].result["code"] == 0, one[0].said
    assert [part.result["code"] for parts in several for part in parts] == [130, 130, 130, 130, 0, 0, 0, 0], said
    assert all("step_000011" in part.result["saved"] for part in several[1])
    assert all("everything is saved" in text for text in said[:4])
    expected = together(one)
    assert len(expected) == STEPS
    assert [tokens for parts in several for tokens in together(parts)] == expected
    assert together(tuned_by_two) == together(tuned_by_one)
    for stage in ("pretrain", "sft"):
        require_near(tmp_path / "one", tmp_path / "several", stage)


def test_ranks_learn_from_their_own_answers_what_one_does(tmp_path: Path) -> None:
    """Each rank samples the whole rollout and learns from its share of it; a rollout that is used again is read after a stop."""
    recipe = [*make_tiny(tmp_path), *OPTIONS, *SMALL, "pack.seq_len=64", "post.learn.precision=fp32"]
    recipe.insert(1, posted("updates_per_rollout = 2, kl_coef = 0.05,"))

    def play(size: int, root: str, until: str, **more: Any) -> dict[str, Any]:
        arguments = ["run", *recipe, f"runs.root={tmp_path / root}", "--until", until]
        return {"size": size, "arguments": arguments, "root": str(tmp_path / root), **more}

    before = [play(1, root, "sft") for root in ("one", "several")]
    plays = [*before, play(1, "one", "learn"), play(2, "several", "learn", stop_after=3), play(2, "several", "learn")]
    *_, one, stopped, finished = perform("tests.stages.ranks", plays)
    assert [part.result["code"] for parts in (one, stopped, finished) for part in parts] == [0, 130, 130, 0, 0], finished[0].said
    assert together(stopped) + together(finished) == together(one) and len(together(one)) == 6
    ours, theirs = (numbers(tmp_path / root, "learn") for root in ("several", "one"))
    for line, there in zip(ours, theirs, strict=True):
        assert line == pytest.approx(there, rel=1e-4, abs=1e-6)


def test_one_rank_alone_is_not_supervised(tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call(["pretrain", *tiny, "--supervise"]) == 2
    assert "--supervise and torchrun do not go together" in capsys.readouterr().err


def torchrun(arguments: list[str], restarts: int = 0) -> subprocess.Popen[str]:
    launcher = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "luthier", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def kill(rank: int, launcher: subprocess.Popen[str], root: Path, lines: int) -> None:
    """Kill a rank once the metrics have so many lines; the leading one is named in the lock."""
    while not any(path.read_text().count("\n") >= lines for path in root.glob("store/pretrain/*/metrics.jsonl")):
        time.sleep(0.02)
        assert launcher.poll() is None
    ranks = {int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()}
    (lock,) = root.glob("store/pretrain/*/lock")
    leading = json.loads(lock.read_text())["pid"]
    assert leading in ranks and len(ranks) == 2
    os.kill(leading if rank == 0 else (ranks - {leading}).pop(), signal.SIGKILL)


def fingerprint(root: Path) -> str:
    return json.loads(next(root.glob("store/pretrain/*/stage.json")).read_text())["fingerprint"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks in /proc")
def test_a_killed_rank_ends_all_and_torchrun_or_the_same_command_goes_on(tmp_path: Path) -> None:
    """A11."""
    steps = ["pretrain.steps=300", "pretrain.eval_every=1000", "pretrain.sample_every=1000", "pretrain.checkpoint_every=20"]
    arguments = ["pretrain", *make_tiny(tmp_path), *steps]
    undisturbed, again, restarted = (tmp_path / name for name in ("undisturbed", "again", "restarted"))
    launcher = torchrun([*arguments, f"runs.root={undisturbed}"])
    _, said = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, said

    launcher = torchrun([*arguments, f"runs.root={again}"])
    kill(1, launcher, again, 50)
    began = time.monotonic()
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 1 and time.monotonic() - began < 60
    assert "error: rank 0 of 2: rank 1 is gone" in said
    record = json.loads(next(again.glob("tiny-*/run.json")).read_text())
    assert record["status"] == "failed" and "rank 1 is gone" in record["reason"]
    launcher = torchrun([*arguments, f"runs.root={again}"])
    _, said = launcher.communicate(timeout=300)
    assert launcher.returncode == 0 and "going on from step" in said, said
    assert fingerprint(again) == fingerprint(undisturbed)

    launcher = torchrun([*arguments, f"runs.root={restarted}"], restarts=1)
    kill(0, launcher, restarted, 50)
    _, said = launcher.communicate(timeout=300)
    assert launcher.returncode == 0 and "rank 1 of 2: rank 0 is gone" in said and "going on from step" in said, said
    assert fingerprint(restarted) == fingerprint(undisturbed)
