import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from luthier.config.training import PretrainSection
from luthier.runs.files import read_json
from luthier.runs.progress import Progress
from luthier.stages import training
from luthier.train import probe
from luthier.train.device import Compute
from luthier.train.probe import TOLERANCE, why_not_compile
from tests.small import small_decoder


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "died of signal 11"),
        ("raise RuntimeError('no kernel image is available')", "no kernel image is available"),
        ("import sys; sys.exit('its results differ')", "its results differ"),
        ("import time; time.sleep(60)", "took more than 1 s"),
    ],
)
def test_a_kernel_that_dies_when_it_is_used_is_found_in_a_process_of_its_own(code: str, words: str) -> None:
    """C9."""
    assert words in (why_not_compile("cpu", "fp32", 1.0 if "sleep" in code else 60.0, [sys.executable, "-c", code]) or "")
    assert why_not_compile("cpu", "fp32", 60.0, [sys.executable, "-c", ""]) is None
    assert "could not be started" in (why_not_compile("cpu", "fp32", 60.0, ["/nowhere/python"]) or "")


@dataclass
class Saying(Progress):
    warned: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warned.append(text)


@dataclass
class Job:
    directory: Path
    cache: Path
    progress: Saying


def test_code_that_cannot_be_compiled_runs_uncompiled_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C9."""
    monkeypatch.setattr(training, "resolve_compute", lambda settings, work: Compute("cpu", "fp32", True, torch.get_num_threads()))
    tried: list[str] = []
    reasons = iter(["it died of signal 11", None])

    def pretend(device: str, precision: str) -> str | None:
        tried.append(device)
        return next(reasons)

    monkeypatch.setattr(training, "why_not_compile", pretend)
    compiled = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        job = Job(tmp_path / name, tmp_path, Saying())
        settings = PretrainSection(steps=1)
        compiled.append(training.settle_compute(job, settings, 10**9, 6).compiled)  # type: ignore[arg-type]
        assert read_json(tmp_path / name / "compute.json")["compiled"] is compiled[-1]
        assert bool(job.progress.warned) is not compiled[-1]
    assert compiled == [False, True, True] and len(tried) == 2  # a failure is tried again, a success is remembered


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_wrong_results_are_refused_and_right_ones_taken(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """C8."""
    monkeypatch.setattr(probe.torch, "compile", lambda function: function)
    assert probe.largest_difference("cpu", precision) == 0.0
    monkeypatch.setattr(probe.torch, "compile", lambda function: lambda *a: tuple(1.1 * r for r in function(*a)))
    assert probe.largest_difference("cpu", precision) > TOLERANCE[precision]
    with pytest.raises(SystemExit, match="differ from uncompiled ones"):
        probe._main("cpu", precision)


def test_half_precision_logits_stay_within_the_stated_tolerance() -> None:
    """C8."""
    whole, half = small_decoder(), small_decoder()
    half.compute_dtype = torch.bfloat16
    inputs = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        expected, got = whole.logits(whole(inputs)), half.logits(half(inputs))
    assert (expected - got).abs().max() <= TOLERANCE["bf16"] * expected.abs().max()
    assert (expected - got).abs().max() > 0


@pytest.mark.slow
def test_compiled_code_gives_the_same_within_tolerance() -> None:
    """C8."""
    assert why_not_compile("cpu", "fp32") is None and why_not_compile("cpu", "bf16") is None
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        eager, compiled = (probe._decoder_step("cpu", dtype, how) for how in (False, True))
        assert all((a - b).abs().max() <= TOLERANCE[precision] * a.abs().max() for a, b in zip(eager, compiled, strict=True))


@pytest.mark.gpu
def test_compiled_code_works_on_the_gpu() -> None:
    """C8."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    assert why_not_compile("cuda", "bf16") is None
