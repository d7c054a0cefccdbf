"""What only a GPU can show. Selected with `-m gpu`; each skips without one."""

import json
from pathlib import Path

import pytest
import torch

from luthier.cli import call

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
OPTIONS = ["pretrain.device=cuda", "sft.device=cuda", "pretrain.compile=off", "sft.compile=off", "pretrain.steps=60"]


def pretrained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert call(["pretrain", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_often_on_cuda_gives_the_same_bits(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    """A14."""
    arguments = [*tiny, *OPTIONS, f"pretrain.precision={precision}"]
    whole = pretrained([*arguments, f"runs.root={tmp_path / 'whole'}"], capsys)
    codes: list[int] = []
    while len(codes) < 60 and 0 not in codes:
        codes.append(call(["pretrain", *arguments, "--for", "0.5s"]))
    assert 130 in codes and codes[-1] == 0
    assert pretrained(arguments, capsys)["weights_sha256"] == whole["weights_sha256"]


def test_a_checkpoint_of_one_device_is_taken_by_the_other(tmp_path: Path) -> None:
    from luthier.train.checkpoint import load_newest
    from tests.train.small_training import trainee
    from tests.train.test_checkpoint import IDENTITY, save

    there = trainee()
    there.model.to("cuda")
    save(tmp_path, there)
    here = trainee()
    load_newest(tmp_path, here, IDENTITY)
    for a, b in zip(there.model.parameters(), here.model.parameters(), strict=True):
        assert torch.equal(a.cpu(), b)


def test_a_lost_gpu_leaves_a_valid_checkpoint_and_names_the_cause(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A15."""
    from luthier.stages import training
    from luthier.train.checkpoint import checkpoints, problems
    from luthier.train.objective import NextToken

    class Dying(NextToken):
        calls = 0

        def __call__(self, *arguments: object) -> torch.Tensor:
            Dying.calls += 1
            if Dying.calls == 12:
                raise RuntimeError("CUDA error: unspecified launch failure")
            return super().__call__(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "NextToken", Dying)
    capsys.readouterr()
    assert call(["pretrain", *tiny, *OPTIONS]) == 1
    assert "after sleep, a driver's update" in capsys.readouterr().err
    (stage,) = (tmp_path / "runs" / "store" / "pretrain").iterdir()
    assert [problems(directory) for directory in checkpoints(stage / "checkpoints")] == [[], []]
