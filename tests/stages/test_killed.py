"""Stages of `[[post]]` that are killed by SIGKILL and restarted: the same weights, the same log, the same in the report."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from markupsafe import escape

from luthier.cli import call
from tests.stages.conftest import make_tiny, write_pairs
from tests.stages.test_grpo import SHAPE
from tests.stages.test_post import SMALL

ROOT = Path(__file__).parents[2]
ROLLOUTS, POLICY = "luthier.post.rollouts", "luthier.post.policy:PolicyObjective.__call__"
MOMENTS = {
    "a rollout is sampled": ("learn", f"{ROLLOUTS}:Rollouts.make 2, luthier.generate.sampling:Sampler.__call__ 3"),
    "a rollout is written": ("learn", f"{ROLLOUTS}:RolloutLoader._write 2, {POLICY} 1"),
    "a rollout is used again": ("learn", "luthier.train.saving:snapshot 4"),
    "grpo is at its end": ("learn", "luthier.stages.before:Onlooker.found 1"),
    "a reward model trains": ("judge", "luthier.post.reward:RewardObjective.__call__ 9"),
    "a student trains": ("small", "luthier.post.distill:Distillation.__call__ 9"),
}


class Made(NamedTuple):
    """A finished run: the command's arguments, what it said, and where its stages' results lie."""

    arguments: list[str]
    said: dict[str, Any]

    def directory(self, stage: str) -> Path:
        return Path(next(one["directory"] for one in self.said["stages"] if one["name"] == stage))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A run with a reward model, GRPO and distillation that nothing disturbed."""
    path = tmp_path_factory.mktemp("killed")
    saved = "checkpoint_every = 2, global_batch_tokens = 256, lr = 2e-3"
    pairs = f'eval_tokens = 2048, validation_share = 0.2, epochs = 3, sources = ["{write_pairs(path / "pairs.jsonl")}"]'
    grpo = f'{SHAPE}, updates_per_rollout = 2, kl_coef = 0.05, reward_model = "judge", sources = [{{problems = "arithmetic"}}]'
    student = "student = {d_model = 16, n_layers = 1, n_heads = 2, d_ff = 32}, steps = 12, eval_tokens = 512, eval_every = 4"
    post = (
        f'post=[{{kind="reward", name="judge", {saved}, {pairs}}}, {{kind="grpo", name="learn", {grpo}}}, '
        f'{{kind="distill", name="small", {saved}, {student}}}]'
    )
    arguments = [*make_tiny(path), *SMALL, "pack.seq_len=64", post]
    command = [sys.executable, "-m", "luthier", "run", "--json", *arguments]
    yield Made(arguments, json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout))


def summary(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "stage.json").read_text())["summary"]


def curve(directory: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in ("tok_per_s", "step_ms", "mfu", "mem_gib")} for row in rows]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_restarted_it_comes_out_the_same(moment: str, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage, where = MOMENTS[moment]
    directory, arguments = made.directory(stage), ["run", *made.arguments, "--until", stage]
    undisturbed = directory.rename(tmp_path / "undisturbed")
    command = [sys.executable, "-m", "tests.stages.dying", where, *arguments]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert not (directory / "stage.json").exists() and call(arguments) == 0
    assert f"{stage}: going on from step" in capsys.readouterr().err
    expected, found = summary(undisturbed), summary(directory)
    for name in ("weights_sha256", "reward_sha256", "found", "validation"):
        assert found.get(name) == expected.get(name), name
    assert curve(directory) == curve(undisturbed) and any(row.get("grad_norm") for row in curve(directory)), "something is learned"


def test_the_report_shows_the_answers_with_the_highest_reward(made: Made) -> None:
    report = (Path(made.said["run"]) / "report.html").read_text()
    shown = [row for row in summary(made.directory("learn"))["found"] if row[1] == "highest reward"]
    assert len(shown) == 3 and all(question.startswith("reward ") for question, *_ in shown)
    assert all(str(escape(text)) in report for row in shown for text in row)
