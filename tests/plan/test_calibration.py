"""Calibration: the sum of a step's work, corrections by runs, and files that are damaged, stale or from elsewhere."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from luthier.config.load import load_recipe, resolve_model
from luthier.config.schema import Recipe
from luthier.config.training import OptimSection
from luthier.plan.calibration import RUNS_KEPT, Calibration, correction, with_run
from luthier.plan.hardware import Hardware, known_measurements, machine, this_machine
from luthier.plan.steps import LONG_ENOUGH_TO_COMPILE, attention_work, block_products, is_compiled, step_parts, step_time

MEASURED: dict[str, Any] = {
    "bandwidth": 4e10,
    "products": {"bf16": [[64, 2.5e11], [192, 3.5e11], [384, 3.8e11], [768, 3.9e11]], "fp32": [[64, 1e11], [768, 1.9e11]]},
    "attention": {"bf16": [3e11, 85e-6], "fp32": [1e11, 85e-6]},
    "elementwise": {"compiled": 4.2e9, "uncompiled": 2e9},
}
A = {"d_model": 256, "n_layers": 8, "n_heads": 4, "n_kv_heads": 4, "d_ff": 960}
D = {"d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12, "d_ff": 2048}


def calibrated() -> Calibration:
    found = Calibration.read(MEASURED)
    assert found is not None
    return found


def recipe(model: dict[str, int] = A, vocab_size: int = 8192, **pretrain: Any) -> Recipe:
    settings = {"steps": 1000, "global_batch_tokens": 4096, **pretrain}
    return Recipe.model_validate({"model": model, "tokenizer": {"vocab_size": vocab_size}, "pack": {"seq_len": 1024}, "pretrain": settings})


@pytest.mark.parametrize(
    ("model", "vocab_size", "rows", "seconds"),
    [(A, 8192, 1, 0.30), (A, 8192, 4, 1.16), (A, 8192, 16, 4.63), (D, 16_384, 1, 2.21)],
)
def test_steps_that_were_measured(model: dict[str, int], vocab_size: int, rows: int, seconds: float) -> None:
    """Two cores of a virtual AMD EPYC, bf16, compiled, with rates near those measured there: docs/LOG.md."""
    config = resolve_model(recipe(model, vocab_size))
    parts = step_parts(config, OptimSection(), calibrated(), rows, rows, 1024, "bf16", compiled=True)
    assert sum(parts.values()) == pytest.approx(seconds, rel=0.15)
    assert min(parts.values()) > 0


def test_work_is_what_the_counts_say() -> None:
    config = resolve_model(recipe())
    assert sum(inner * outer for inner, outer in block_products(config)) == 8 * (4 * 256**2 + 3 * 256 * 960)
    assert attention_work(config, 1024) == (8 * (1024 + 128) / 2, 6 * 8 * 8)
    half = step_parts(config, OptimSection(), calibrated(), 4, 2, 1024, "bf16", compiled=True)
    whole = step_parts(config, OptimSection(), calibrated(), 4, 4, 1024, "bf16", compiled=True)
    assert half["products"] == whole["products"] and half["weights"] > 2 * whole["weights"] and half["attention"] > whole["attention"]


def test_every_switch_costs_what_it_should() -> None:
    config, here = resolve_model(recipe()), calibrated()

    def parts(precision: str = "bf16", compiled: bool = True, checkpointing: str = "off", optimizer: str = "adamw") -> dict[str, float]:
        settings = OptimSection(name=optimizer)  # type: ignore[arg-type]
        return step_parts(config, settings, here, 4, 4, 1024, precision, compiled=compiled, checkpointing=checkpointing)

    plain = parts()
    assert parts(compiled=False)["elementwise"] == pytest.approx(plain["elementwise"] * 4.2 / 2)
    assert parts("fp32")["products"] > 1.5 * plain["products"]
    assert parts(checkpointing="blocks")["products"] == pytest.approx(plain["products"] * 4 / 3)
    assert parts(checkpointing="selective")["products"] == plain["products"]
    assert parts(optimizer="muon")["optimizer"] > 5 * plain["optimizer"]


def test_rates_between_widths() -> None:
    here = calibrated()
    assert here.product_rate("bf16", 10) == 2.5e11 and here.product_rate("bf16", 5000) == 3.9e11
    assert here.product_rate("bf16", 192) == 3.5e11 < here.product_rate("bf16", 256) < 3.8e11
    assert here.product_rate("fp16", 64) == 2.5e11, "a precision that was not measured is taken for the first"


def test_a_machine_that_was_not_calibrated_reaches_a_share_of_its_peak() -> None:
    one, config = recipe(), resolve_model(recipe())
    assert step_time(one, config, Hardware("x", {}, 8.0), "bf16", True) is None
    assumed = step_time(one, config, Hardware("x", {"bf16": 1e12}, 8.0), "bf16", True)
    assert assumed is not None and not assumed.calibrated and list(assumed.parts) == ["compute"]
    gpu = Hardware("x", {"bf16": 1e14}, 80.0, on_gpu=True, device="X1", runs={"X1 bf16 compiled assumed": (0.5, 0.7, 0.6)})
    corrected = step_time(one, config, gpu, "bf16", True)
    assert corrected is not None and (corrected.correction, corrected.runs) == (0.6, 3)
    assert corrected.seconds == pytest.approx(0.6 * sum(corrected.parts.values()))


def test_corrections_are_of_the_same_way_to_compute() -> None:
    one, config = recipe(), resolve_model(recipe())
    here = Hardware("x", {"bf16": 1e12}, 8.0, calibration=calibrated(), runs={"cpu bf16 compiled calibrated": (1.1,)})
    compiled, plain = (step_time(one, config, here, "bf16", flag) for flag in (True, False))
    assert compiled is not None and plain is not None
    assert (compiled.correction, compiled.runs, plain.correction, plain.runs) == (1.1, 1, 1.0, 0)


def test_the_correction_is_robust() -> None:
    assert correction(()) == (1.0, 0)
    assert correction((0.9, 0.95, 7.0)) == (0.95, 3), "one run that shared its machine"
    assert correction(("fast", None, -1, 0, 1e9, float("nan"), 1.2)) == (1.2, 1)
    assert correction({"a": 1}) == (1.0, 0)
    told: dict[str, Any] = {"cpu": "x", "runs": {"other": [0.8]}}
    for ratio in (5.0, 1.0, 1.1, 1.2, 1.3, 1.4, float("inf"), 0.0):
        told = with_run(told, "key", ratio)
    assert told == {"cpu": "x", "runs": {"other": [0.8], "key": [1.0, 1.1, 1.2, 1.3, 1.4]}} and RUNS_KEPT == 5
    assert with_run({"runs": "damaged"}, "key", 1.5) == {"runs": {"key": [1.5]}}
    assert with_run({"runs": {"key": 7}}, "key", 1.5) == {"runs": {"key": [1.5]}}


@pytest.mark.parametrize(
    "damage",
    [
        None, 5, "x", [], {}, {**MEASURED, "bandwidth": 0}, {**MEASURED, "bandwidth": "fast"}, {**MEASURED, "products": {}},
        {**MEASURED, "products": {"bf16": [[1]]}}, {**MEASURED, "products": [1]}, {**MEASURED, "attention": {"bf16": 3}},
        {**MEASURED, "elementwise": {"compiled": None}}, {**MEASURED, "elementwise": {"compiled": float("inf")}},
        {key: value for key, value in MEASURED.items() if key != "attention"},
    ],
)  # fmt: skip
def test_damaged_calibrations_are_none(damage: Any) -> None:
    assert Calibration.read(damage) is None


def test_calibrations_of_another_machine_or_torch_do_not_count(tmp_path: Path) -> None:
    path, here = tmp_path / "hardware.json", machine()

    def told(calibration: Any, **changes: Any) -> Hardware:
        values = {"cpu": here["cpu"], "cores": here["cores"], "gemm_bf16": 1e11, "calibration": calibration, "runs": {"k": [1.1], "l": 3}}
        path.write_text(json.dumps({**values, **changes}))
        return this_machine(tmp_path)

    found = told({**MEASURED, "torch": metadata.version("torch")})
    assert found.calibration == calibrated() and found.runs == {"k": (1.1,)}
    assert told({**MEASURED, "torch": "0.1"}).calibration is None
    assert told(MEASURED, cores=here["cores"] + 1).calibration is None and known_measurements(path) == {}
    assert told(MEASURED, cpu="another").runs == {}
    assert told(MEASURED, runs=5).runs == {}
    path.write_text("{")
    assert this_machine(tmp_path).calibration is None


def test_when_a_training_compiles() -> None:
    assert is_compiled("on", "mps", 0) and not is_compiled("off", "cuda", 1e12)
    assert is_compiled("auto", "cuda", LONG_ENOUGH_TO_COMPILE) and not is_compiled("auto", "cuda", LONG_ENOUGH_TO_COMPILE - 1)
    assert not is_compiled("auto", "mps", 1e12)


def test_the_quickstart_is_no_quarter_of_an_hour() -> None:
    """Its 4.0 million tokens take about four minutes on the machine whose rates these are near."""
    quickstart = load_recipe([Path(__file__).parents[2] / "recipes" / "quickstart.toml"])
    here = Hardware("x", {"bf16": 4e11}, 8.0, calibration=calibrated())
    step = step_time(quickstart, resolve_model(quickstart), here, "bf16", True)
    assert step is not None and 120 < 1954 * step.seconds < 400
