"""Several processes: what a rank has and sends, which micro-batches fit, and what is advised where they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from luthier.config.load import load_recipe, resolve_model
from luthier.plan.gpus import TABLE
from luthier.plan.hardware import Hardware
from luthier.plan.memory import training_bytes
from luthier.plan.parallel import BUCKET_BYTES, all_reduce_bytes, rank_bytes
from luthier.plan.parameters import count
from luthier.plan.report import PlanReport, plan

SETTINGS = [
    "model.d_model=512", "model.n_layers=8", "model.n_heads=8", "tokenizer.vocab_size=16384", "pack.seq_len=1024",
    "pretrain.steps=100", "pretrain.global_batch_tokens=131072", "pretrain.micro_batch_size=32",
]  # fmt: skip


def planned(machine: Hardware | None, *settings: str) -> PlanReport:
    return plan(load_recipe([], [*SETTINGS, *settings]), machine)


def card(gib: float, count: int = 1) -> Hardware:
    return replace(TABLE["rtx3090"], memory_gib=gib, count=count)


def test_a_rank_has_all_of_it_or_its_share() -> None:
    recipe = load_recipe([], SETTINGS)
    config = resolve_model(recipe)
    parts = training_bytes(config, recipe.optim, 4, 1024, "bf16", on_gpu=True)
    one, ddp, fsdp = (rank_bytes(parts, config, 8, way, "bf16") for way in ("one", "ddp", "fsdp"))
    assert one == parts == rank_bytes(parts, config, 1, "fsdp", "bf16")
    embedding = 4 * config.vocab_size * config.d_model
    assert ddp == {**parts, "buckets": max(BUCKET_BYTES, embedding)} and embedding > BUCKET_BYTES
    for name in ("weights", "gradients", "optimizer"):
        assert fsdp[name] == -(-parts[name] // 8)
    assert fsdp["activations"] == parts["activations"] and "weights, cast" not in fsdp
    assert fsdp["gathered"] == 2 * embedding, "two copies of two bytes, and gradients of four"


def test_a_ring_sends_nothing_alone_and_nearly_twice_the_gradients_among_many() -> None:
    assert all_reduce_bytes(1000, 1) == 0
    assert all_reduce_bytes(1000, 2) == 4000 and all_reduce_bytes(1000, 1000) == pytest.approx(8000, rel=2e-3)


def test_the_most_rows_fit_and_one_more_does_not() -> None:
    report = planned(card(12))
    recipe = load_recipe([], SETTINGS)
    config = resolve_model(recipe)
    for one in report.options:
        assert one.most_rows is not None
        limit = 128 if one.way == "one" else 16
        for rows, fits in ((one.most_rows, True), (one.most_rows + 1, False)):
            if 0 < rows <= limit:
                how = {"on_gpu": True, "checkpointing": one.checkpointing, "compiled": True}
                parts = training_bytes(config, recipe.optim, rows, 1024, "bf16", **how)
                assert (sum(rank_bytes(parts, config, 8, one.way, "bf16").values()) <= 12 * 2**30) == fits
    rows = {(one.way, one.checkpointing): one.most_rows for one in report.options}
    assert 0 < (rows["one", "off"] or 0) < (rows["one", "selective"] or 0) < (rows["one", "blocks"] or 0) <= 128


def test_what_is_advised_fits() -> None:
    machine = card(6)
    report = planned(machine)
    assert report.fits is False and len(report.advice) >= 4
    changes: dict[str, Any] = {one.change: one for one in report.advice}
    for change, one in changes.items():
        if change.startswith("pretrain."):
            again = planned(machine, *change.split())
            assert again.fits and sum(again.memory.values()) == one.bytes <= 6 * 2**30, change
        elif change.startswith("--hardware"):
            name = change.split()[1]
            again = planned(TABLE[name])
            assert again.fits and sum(again.memory.values()) == one.bytes and again.precision == report.precision
        else:
            assert change.startswith("FSDP over 8") and one.bytes <= 6 * 2**30
    assert planned(card(80)).advice == ()


def test_what_is_not_asked_for_is_made_to_fit() -> None:
    free = [setting for setting in SETTINGS if "micro" not in setting]
    small = plan(load_recipe([], free), card(6))
    large = plan(load_recipe([], free), card(10_000))
    assert small.fits and 0 < small.micro_batch_rows < plan(load_recipe([], free), card(24)).micro_batch_rows < large.micro_batch_rows
    assert large.micro_batch_rows == large.rows_per_step, "on a GPU the trainer goes up to a whole step"
    assert plan(load_recipe([], free), card(1)).fits is False, "not even one row"


def test_several_share_the_work_and_the_rent() -> None:
    one, four = planned(card(80)), planned(card(80, 4))
    assert one.seconds and four.seconds and four.communication_seconds and one.communication_seconds == 0
    assert four.ranks == four.compared_ranks == 4 and one.compared_ranks == 8 and four.micro_batch_rows == 32
    assert four.seconds == pytest.approx(one.seconds / 4 + 100 * four.communication_seconds)
    assert four.step_seconds == pytest.approx(four.seconds / 100)
    assert one.dollars and four.dollars == pytest.approx(four.seconds / 3600 * 4 * 0.22)
    assert four.energy_kwh == pytest.approx(four.seconds * 4 * 350 / 3.6e6)
    params = count(resolve_model(load_recipe([], SETTINGS)))["total"]
    assert four.communication_seconds == pytest.approx(1.5 * params * 4 / 31.5e9)


def test_recomputed_blocks_take_a_third_more() -> None:
    plain, blocks = planned(card(80)), planned(card(80), "pretrain.activation_checkpointing=blocks")
    selective = planned(card(80), "pretrain.activation_checkpointing=selective")
    assert plain.seconds and blocks.seconds and selective.seconds == plain.seconds
    head = plain.flops_per_token["head"] / plain.flops_per_token["forward"]
    assert blocks.seconds / plain.seconds == pytest.approx(1 + (1 - head) / 3)
