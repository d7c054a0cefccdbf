"""The page that people read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luthier.config.load import load_recipe, validate
from luthier.plan.gpus import TABLE
from luthier.plan.hardware import Hardware
from luthier.plan.report import plan
from luthier.plan.text import plan_text
from tests.plan.test_systems import EIGHT, MYLLM


def page(machine: Hardware | None, *settings: str) -> list[str]:
    return plan_text(plan(load_recipe([], ["pretrain.steps=100", *settings]), machine)).splitlines()


@pytest.mark.parametrize("machine", [None, TABLE["h100"], TABLE["t4"], EIGHT, Hardware("slow", {"fp32": 1e9}, 0.1)], ids=str)
def test_it_fits_a_page(machine: Hardware | None) -> None:
    lines = page(machine, 'sft.sources=[{path = "x.jsonl"}]')
    assert len(lines) <= 64 and max(map(len, lines)) <= 140
    assert not any(line != line.rstrip() for line in lines)
    titles = [line for line in lines if line and not line.startswith((" ", "note", "Plan", "Memory", "Trainings"))]
    assert titles == ["Model", "Training", "Result"]


def test_columns_stand_under_each_other() -> None:
    lines = plan_text(plan(validate(MYLLM), EIGHT)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Memory of a rank"))
    end = next(i for i, line in enumerate(lines) if "fits into" in line)
    assert {len(line.split("   <-")[0]) for line in lines[start:end]} == {24 + 3 * 14}
    start = next(i for i, line in enumerate(lines) if line.startswith("Trainings"))
    assert len(lines[start]) == len(lines[start + 1])


def test_figures_are_rounded_for_people() -> None:
    text = plan_text(plan(validate(MYLLM), EIGHT))
    for said in ("1,055,231,744", "105,058", "27.5G", "21.1G", "1.74e+20", "28,672 B", "224.0 MiB", "1.75 GiB", "11.09", "7.39 GB"):
        assert said in text, said


def test_what_does_not_fit_is_marked_and_mended() -> None:
    lines = page(replace(TABLE["t4"], memory_gib=0.7), "pretrain.micro_batch_size=64")
    assert any("does not fit into 0.7 GiB" in line for line in lines)
    assert any("with --hardware" in line for line in lines)
    assert any(line.startswith("  pretrain") and " !" in line for line in lines)


def test_a_table_without_a_rate_says_so() -> None:
    lines = page(TABLE["t4"], "pretrain.precision=bf16")
    assert "note: NVIDIA T4 has no rate for bf16 in the table" in lines
    assert any(line.startswith("Memory of a rank, fp16") for line in page(TABLE["t4"], "pretrain.precision=fp16"))
