"""fp16 with a loss scale, and what every precision must keep."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from luthier.config.training import OptimSection
from luthier.model.precision import DTYPES
from luthier.model.weights import weights_sha256
from luthier.optim.build import build_optimizer
from luthier.train.checkpoint import load_newest, snapshot, write_checkpoint
from luthier.train.loop import Incident, Trainee
from luthier.train.scaler import LossScaler
from tests.train.small_training import train, trainee
from tests.train.test_checkpoint import IDENTITY, TOKENIZER


def half(scale: float = 2.0**16, patience: int = 2000) -> Trainee:
    who = trainee()
    who.model.compute_dtype, who.scaler = torch.float16, LossScaler(scale, patience=patience)
    return who


def test_the_scale_doubles_after_patience_and_halves_at_an_overflow() -> None:
    scaler = LossScaler(8.0, patience=3)
    for _ in range(3):
        scaler.note_good()
    assert (scaler.scale, scaler.good_steps) == (16.0, 0)
    scaler.note_good()
    assert scaler.overflowed(2.0, math.inf) and (scaler.scale, scaler.good_steps, scaler.overflows) == (8.0, 0, 1)
    assert not scaler.overflowed(2.0, 1.0) and not scaler.overflowed(math.nan, math.nan) and scaler.scale == 8.0
    assert not LossScaler(1.0).overflowed(2.0, math.nan)  # no smaller one would help
    assert LossScaler(**scaler.as_dict()) == scaler


def test_fp16_learns_as_fp32_does() -> None:
    who = half()
    losses, expected = train(who, 12), train(trainee(), 12)
    assert losses == pytest.approx(expected, rel=5e-3) and losses != expected and losses[-1] < losses[0] - 0.5
    assert all(p.dtype == torch.float32 for p in who.model.parameters()) and who.scaler is not None and who.scaler.good_steps == 12


def test_an_overflow_is_no_incident_and_loses_no_batch() -> None:
    """Steps thrown away leave no trace: the updates are those of a scale that was right from the start."""
    seen: list[Incident] = []
    who, other = half(2.0**40), half(2.0**16)
    losses = train(who, 4, on_incident=lambda incident: bool(seen.append(incident)))
    assert who.scaler is not None and who.scaler.overflows > 0 and who.scaler.scale < 2.0**40
    assert not seen and (who.step, who.cursor, who.health.skipped) == (4, 4, 0)
    assert losses == pytest.approx(train(other, 4), rel=1e-3)


def test_the_scale_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    """Ten steps equal four and six, bit for bit, over two changes of the scale."""
    whole, first = half(patience=3), half(patience=3)
    train(whole, 10)
    train(first, 4)
    write_checkpoint(tmp_path, snapshot(first, {}, {}), TOKENIZER, IDENTITY)
    second = half(patience=7)
    load_newest(tmp_path, second, IDENTITY)
    assert second.scaler == first.scaler
    train(second, 10)
    assert second.scaler == whole.scaler and weights_sha256(second.model.state_dict()) == weights_sha256(whole.model.state_dict())


@pytest.mark.parametrize("precision", list(DTYPES))
def test_a_small_update_is_not_rounded_away(precision: str) -> None:
    """Norms begin at 1: a ten-thousandth of that is nothing in bf16 or fp16."""
    who = trainee()
    who.model.compute_dtype, who.scaler = DTYPES[precision], LossScaler() if precision == "fp16" else None
    who.optimizer = build_optimizer(who.model, OptimSection(name="adamw", lr=1e-4))
    train(who, 1)
    change = (who.model.layers[0].input_layernorm.weight - 1.0).abs()
    assert change.min() > 0.5e-4 and change.max() < 1.5e-4
