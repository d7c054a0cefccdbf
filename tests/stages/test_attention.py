from dataclasses import dataclass, field
from pathlib import Path

import pytest

from luthier.config.schema import Recipe
from luthier.config.training import PretrainSection
from luthier.errors import HardwareError
from luthier.model.choose import Trial
from luthier.runs.files import read_json, write_json
from luthier.runs.progress import Progress
from luthier.stages import attention
from luthier.stages.attention import choose_attention
from luthier.stages.training import settle_compute
from luthier.train.device import Compute
from tests.small import small_shape


@dataclass
class Job:
    directory: Path
    cache: Path
    progress: Progress = field(default_factory=Progress)
    recipe: Recipe = field(default_factory=Recipe)


def choose(job: Job, asked: str, device: str, **switches: object) -> str:
    settings = PretrainSection.model_validate({"steps": 1, "attention": asked})
    return choose_attention(Compute(device, "bf16", True, 1), job, settings, small_shape(**switches), True)  # type: ignore[arg-type]


def test_what_cannot_train_here_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, tmp_path)
    for backend in ("triton", "flex"):
        with pytest.raises(HardwareError, match=f"attention={backend} was asked for, but"):
            choose(job, backend, "cpu")
    assert [choose(job, backend, "cpu") for backend in ("auto", "naive", "blocked", "sdpa")] == ["auto", "naive", "blocked", "sdpa"]
    assert choose(job, "flex", "cuda") == "flex"


def test_a_gpu_takes_the_fastest_and_remembers_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    times: dict[str, float | str] = {"sdpa": 2.0, "triton": 1.0, "flex": "it died of signal 11"}

    def pretend(name: str, trial: object) -> float | str:
        tried.append(name)
        return times[name]

    monkeypatch.setattr(attention, "try_back_end", pretend)
    job = Job(tmp_path, tmp_path)
    assert choose(job, "auto", "cuda") == choose(job, "auto", "cuda") == "triton"
    assert tried == ["sdpa", "triton", "flex"]
    times["triton"] = times["sdpa"] = "it died of signal 11"
    (tmp_path / "probes.json").unlink()
    assert choose(job, "auto", "cuda") == "auto"  # where nothing works the rule decides, and the next run tries again
    assert not (tmp_path / "probes.json").exists()


def test_a_gpu_takes_nothing_that_cannot_do_the_layers_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(name: str, trial: Trial) -> float | str:
        strange = any(window or alibi for window, alibi, _ in trial.patterns)
        return {"sdpa": 2.0, "triton": "its results differ" if strange else 1.0, "flex": 3.0}[name]

    monkeypatch.setattr(attention, "try_back_end", pretend)
    job = Job(tmp_path, tmp_path)
    assert choose(job, "auto", "cuda") == "triton"
    assert choose(job, "auto", "cuda", windows=(0, 9)) == choose(job, "auto", "cuda", positions=("none", "alibi")) == "sdpa"
    assert choose(job, "auto", "cuda") == "triton"


def test_a_stage_with_rows_of_its_own_tries_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def pretend(name: str, trial: Trial) -> float | str:
        lengths.append(trial.length)
        return 1.0

    monkeypatch.setattr(attention, "try_back_end", pretend)
    job, settings = Job(tmp_path, tmp_path), PretrainSection(steps=1)
    for seq_len in (None, 64):
        choose_attention(Compute("cuda", "bf16", True, 1), job, settings, small_shape(), True, seq_len)  # type: ignore[arg-type]
    assert lengths == [256] * 3 + [64] * 3


def test_a_stage_that_goes_on_takes_what_was_recorded(tmp_path: Path) -> None:
    """Another back end would round otherwise."""
    answers = iter(["blocked"])
    job = Job(tmp_path, tmp_path)
    for _ in range(2):
        assert settle_compute(job, PretrainSection(steps=1), 10, 1, lambda compute: next(answers)).attention == "blocked"  # type: ignore[arg-type]
    recorded = read_json(tmp_path / "compute.json")
    assert isinstance(recorded, dict) and recorded.pop("attention") == "blocked"
    write_json(tmp_path / "compute.json", recorded)  # as earlier versions did
    assert settle_compute(job, PretrainSection(steps=1), 10, 1).attention == "auto"  # type: ignore[arg-type]
