"""Stage kind grpo: a grader that hangs, a ratio that is infinite, rewards that are all equal: the run goes on and says so."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.model.weights import load_tensors
from luthier.pack.loader import IGNORE_INDEX
from luthier.post.rollouts import Rollouts
from luthier.stages import grpo
from luthier.tasks.grading import judge
from tests.stages.conftest import make_tiny
from tests.stages.test_grpo import posted
from tests.stages.test_post import SMALL

HANGS = "(?:|){40}(?!)"
"""Never found in any text, in two ways at each of forty places."""


def run_tiny(tmp_path: Path, *more: str) -> list[dict[str, float]]:
    """Run GRPO's stage; give its training steps' metrics."""
    assert call(["run", *make_tiny(tmp_path), *SMALL, "pack.seq_len=64", posted(), *more, "--until", "learn"]) == 0
    (log,) = (tmp_path / "runs" / "store" / "learn").glob("*/metrics.jsonl")
    (weights,) = log.parent.glob("checkpoints/*2/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in load_tensors(weights).values())
    return [row for line in log.read_text().splitlines() if "train/loss" in (row := json.loads(line))]


def test_a_grader_that_hangs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    build = grpo.build_problems

    def hanging(*given):  # type: ignore[no-untyped-def]
        *sides, counts = build(*given)
        return *([replace(one, answer=HANGS, grader="pattern") for one in side[:2]] for side in sides), counts

    monkeypatch.setattr(grpo, "build_problems", hanging)
    shape = ["post.learn.steps=2", "post.learn.prompts_per_step=1", "post.learn.group_size=2", "post.learn.length_weight=0.0"]
    rows = run_tiny(tmp_path, *shape, "post.learn.judge_seconds=0.2")
    said = capsys.readouterr().err
    assert "the grader 'pattern' took longer than 0.2 s; it counts as 0, training goes on" in said
    assert "groups all have equal rewards has nothing to learn from; training goes on" in said
    assert [(row["post/faults"], row["post/reward"], row["post/equal_groups"], row["train/loss"]) for row in rows] == [
        (1.0, 0.0, 1.0, 0.0)
    ] * 2


def test_a_grader_that_has_no_process(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(seconds: float) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(judge, "_start", refused)
    assert call(["run", *make_tiny(tmp_path), *SMALL, "pack.seq_len=64", posted(), "--until", "learn"]) == 2
    said = capsys.readouterr().err
    assert said.count("no more processes; it counts as 0, training goes on") == 1
    assert "3 times in a row no answer could be graded" in said and "luthier.tasks.grading.worker` starts" in said


def test_a_ratio_that_is_infinite(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make = Rollouts.make

    def spoilt(self, number, problems):  # type: ignore[no-untyped-def]
        batch = make(self, number, problems)
        row, place = next(zip(*(batch.targets != IGNORE_INDEX).nonzero(), strict=True))
        batch.extras["sampled"][row, place] = -math.inf
        return batch

    monkeypatch.setattr(Rollouts, "make", spoilt)
    rows = run_tiny(tmp_path, "post.learn.steps=2")
    assert "1 tokens with a ratio that is infinite or no number; they are left out, training goes on" in capsys.readouterr().err
    assert [row["post/odd_ratios"] for row in rows] == [1.0, 1.0] and all(math.isfinite(row["train/loss"]) for row in rows)
