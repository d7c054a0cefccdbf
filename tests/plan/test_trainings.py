"""Trainings behind pretraining: what is known of them, what is guessed, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.config.load import load_recipe, resolve_model
from luthier.plan.compute import forward_flops_per_token
from luthier.plan.gpus import TABLE
from luthier.plan.horizon import bytes_per_token
from luthier.plan.parameters import count
from luthier.plan.report import PlanReport, plan
from luthier.plan.trainings import TrainingPlan

BASE = ["pretrain.steps=100", "model.d_model=256", "model.n_layers=4"]


def planned(*settings: str) -> PlanReport:
    return plan(load_recipe([], [*BASE, *settings]), TABLE["rtx4090"])


def stage(**settings: object) -> str:
    values = ", ".join(f"{key} = {_toml(value)}" for key, value in settings.items())
    return f'post=[{{name = "it", {values}}}]'


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def last(*settings: str) -> TrainingPlan:
    return planned(*settings).trainings[-1]


@pytest.fixture
def texts(tmp_path: Path) -> str:
    (tmp_path / "a.jsonl").write_bytes(b"x" * 1_000_000)
    return str(tmp_path / "a.jsonl")


def forward(seq_len: int) -> float:
    return sum(forward_flops_per_token(resolve_model(load_recipe([], BASE)), seq_len).values())


def test_fine_tuning_is_guessed_from_plain_files(texts: str) -> None:
    one = last(
        f'sft.sources=[{{path = "{texts}", weight = 2.0}}]', "sft.epochs=3", "sft.validation_share=0.1", "sft.global_batch_tokens=4096"
    )
    assert (one.name, one.kind) == ("sft", "sft") and one.estimated and one.notes == ()
    assert one.tokens == round(2 * 3 * 0.9 * 1_000_000 / bytes_per_token(4096))
    assert one.tokens is not None and one.steps == -(-one.tokens // 4096)
    assert one.flops == pytest.approx(3 * forward(256) * one.tokens)
    assert one.cost.seconds == pytest.approx(3 * forward(256) * one.tokens / (165.2e12 * 0.4)) and one.cost.dollars and one.cost.energy_kwh


@pytest.mark.parametrize("source", ['{path = "nowhere.jsonl"}', '{task = "arithmetic"}', '{path = "PATH", limit = 5}'])
def test_what_is_not_known_says_why(texts: str, source: str) -> None:
    report = planned(f"sft.sources=[{source.replace('PATH', texts)}]")
    one = report.trainings[-1]
    assert (one.steps, one.tokens, one.flops, one.cost.seconds) == (None, None, None, None) and one.memory > 0
    assert "sft: tokens and time are known once its sources are read" in report.notes
    assert report.total == report.trainings[0].cost


def test_preferences_need_their_reference(texts: str) -> None:
    with_it, without = (last(stage(kind="dpo", sources=[texts], loss=loss)) for loss in ("sigmoid", "simpo"))
    params, tokens = count(resolve_model(load_recipe([], BASE)))["total"], 1_000_000 / bytes_per_token(4096)
    assert with_it.flops is not None and without.flops is not None
    assert with_it.flops - without.flops == pytest.approx(forward(512) * tokens)
    assert with_it.memory == without.memory > 4 * params, "the model before is compared with in both"
    reward = last(stage(kind="reward", sources=[texts]))
    assert reward.memory == with_it.memory - 4 * params
    assert reward.flops is not None and reward.flops < without.flops, "without the head"


def test_distillation_by_steps() -> None:
    report = planned(stage(kind="distill", teacher="somewhere", steps=50))
    one = report.trainings[-1]
    assert (one.steps, one.tokens, one.estimated) == (50, 50 * 16_384, False)
    assert any("teacher" in note for note in report.notes)
    assert last(stage(kind="distill", teacher="somewhere")).tokens is None


def test_reinforcement_samples_and_learns() -> None:
    given = {
        "kind": "grpo",
        "sources": [{"problems": "arithmetic"}],
        "steps": 20,
        "prompts_per_step": 4,
        "group_size": 8,
        "max_new_tokens": 50,
    }
    one = last(stage(**given, importance_cap=0.0))
    assert (one.steps, one.tokens, one.estimated) == (20, 20 * 4 * 8 * 50, True) and one.tokens and one.flops
    assert one.flops == pytest.approx(forward(256) * one.tokens * (1 + 3))
    assert last(stage(**given)).flops == pytest.approx(forward(256) * one.tokens * (2 + 3))
    held = last(stage(**given, kl_coef=0.1))
    assert held.flops == pytest.approx(forward(256) * one.tokens * (3 + 3))
    assert held.memory == one.memory + 4 * count(resolve_model(load_recipe([], BASE)))["total"]
    twice = last(stage(**given, importance_cap=0.0, updates_per_rollout=2))
    assert twice.flops == pytest.approx(forward(256) * one.tokens * (0.5 + 3))
    assert one.cost.seconds and one.cost.seconds > one.flops / (165.2e12 * 0.4), "sampling waits for memory"


def test_adapters_need_less(texts: str) -> None:
    full, thin = (last(stage(kind="sft", sources=[{"path": texts}], lora_rank=rank)) for rank in (0, 4))
    assert thin.memory < full.memory and thin.flops == full.flops


def test_the_sum_is_of_all(texts: str) -> None:
    report = planned(f'sft.sources=[{{path = "{texts}"}}]', stage(kind="dpo", sources=[texts]))
    assert [one.name for one in report.trainings] == ["pretrain", "sft", "it"]
    for figure in ("seconds", "energy_kwh", "dollars"):
        assert getattr(report.total, figure) == pytest.approx(sum(getattr(one.cost, figure) for one in report.trainings))
    assert report.trainings[0].cost.seconds == report.seconds and report.trainings[0].memory == sum(report.memory.values())


def test_what_several_lack_is_said_once() -> None:
    post = ", ".join(f'{{kind = "dpo", name = "{name}", sources = ["nowhere.jsonl"]}}' for name in ("one", "two"))
    notes = planned(f"post=[{post}]").notes
    assert [note for note in notes if "sources are read" in note] == ["one, two: tokens and time are known once its sources are read"]
