"""Stage kind distill: nearer to its teacher; another tokenizer or no checkpoint is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.cli import call
from luthier.config.load import last_model, load_recipe, resolve_model
from luthier.errors import ConfigError
from luthier.model.decoder import Decoder
from luthier.model.weights import load_tensors
from luthier.plan.report import plan
from luthier.post import distill
from luthier.runs.store import RECORD
from luthier.stages.distill import teacher_checkpoint
from tests.stages.conftest import make_tiny
from tests.stages.test_pipeline import run_json
from tests.stages.test_post import SMALL


def posted(teacher: str, more: str = "") -> str:
    shape = "steps = 12, global_batch_tokens = 256, eval_tokens = 512, eval_every = 4, sample_every = 12, lr = 5e-3"
    return f'post=[{{kind="distill", name="learn", {shape}, {more} teacher="{teacher}"}}]'


def without_teacher(more: str) -> str:
    return re.sub(r',\s*teacher="x"', "", posted("x", more))


def checkpoint_of(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_tensors(max((run / stage).glob("checkpoints/*/model.safetensors")))


def test_it_comes_nearer_to_its_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    measured, widths = distill.mean_divergence, set[tuple[int, int]]()

    def watched(model: Decoder, reference: Decoder, *given: Any) -> float:
        widths.add((model.config.d_model, reference.config.d_model))
        return measured(model, reference, *given)

    monkeypatch.setattr(distill, "mean_divergence", watched)
    arguments = [*make_tiny(tmp_path), *SMALL]
    teacher = run_json([*arguments, "pretrain.steps=24", "model.d_model=48", "--until", "pretrain"], capsys)
    made = run_json([*arguments, posted(teacher["run"]), "--until", "learn"], capsys)
    rows = [json.loads(line) for line in (Path(made["run"]) / "learn" / "metrics.jsonl").read_text().splitlines()]
    divergences = [row["post/divergence"] for row in rows if "post/divergence" in row]
    assert divergences[-1] < 0.8 * divergences[0]
    (pair,) = widths
    assert pair[0] == 48 != pair[1], "what is measured is what is trained: from the teacher to the student"
    assert made["post"]["learn"]["divergence"] > 0 and made["post"]["learn"]["bpb_change"] < 0
    again = run_json([*arguments, posted(teacher["run"]), "--until", "learn"], capsys)
    assert all(stage["cached"] for stage in again["stages"])
    other = run_json([*arguments, posted(teacher["run"], 'rows = "sft",'), "--until", "learn"], capsys)
    assert other["weights_sha256"] != made["weights_sha256"]

    assert call(["run", *arguments, posted(teacher["run"]), "sft.sources=[]", "tokenizer.vocab_size=380", "--until", "learn"]) == 2
    assert "has another tokenizer" in capsys.readouterr().err


def test_a_new_student_learns_from_the_model_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With all its loss from the text it is the model that pretraining makes of the same rows; with a teacher it is another."""
    shape = "d_model=16, n_layers=1, n_heads=2, d_ff=32, logit_softcap=9.0"
    student = f"student={{{shape}}}, schedule='linear', min_lr_ratio=0.1, warmup_steps=2, precision='fp32',"
    course = ["optim.schedule='linear'", "optim.min_lr_ratio=0.1", "optim.warmup_steps=2", "pretrain.precision='fp32'"]
    arguments = [*make_tiny(tmp_path), *SMALL, *course, "sft.sources=[]"]
    small = [f"model.{one}" for one in shape.split(", ")]
    alone = run_json([*arguments, *small, "model.n_kv_heads=2", "pretrain.steps=12", "--until", "pretrain"], capsys)
    expected = checkpoint_of(Path(alone["run"]), "pretrain")
    apart, params = dict[str, float](), set[int]()
    for mix in ("0.0", "0.9"):
        run = Path(run_json([*arguments, without_teacher(f"{student} mix={mix},"), "--until", "learn"], capsys)["run"])
        found = checkpoint_of(run, "learn")
        assert found.keys() == expected.keys()
        apart[mix] = max(float((found[name] - expected[name]).abs().max()) for name in expected)
        params.add(json.loads((run / "learn" / RECORD).read_text())["summary"]["params"])
    assert apart["0.0"] < 0.01 * apart["0.9"] and apart["0.9"] > 1e-3
    assert params == {sum(tensor.numel() for tensor in expected.values())}


def test_the_plan_knows_both_models(tmp_path: Path) -> None:
    shape = "student={d_model=16, n_layers=1, n_heads=2, d_ff=32},"
    tiny = make_tiny(tmp_path)
    recipe, larger = (load_recipe(tiny, [*SMALL, f"model.d_model={width}", without_teacher(shape)]) for width in (32, 64))
    small, other = (plan(each, None).trainings[-1] for each in (recipe, larger))
    assert small.name == "learn" and small.kind == "distill"
    teachers = [4 * plan(each, None).params for each in (recipe, larger)]
    assert other.memory - small.memory == teachers[1] - teachers[0], "the student is the same"
    assert small.flops is not None and other.flops is not None and small.flops < other.flops, "its teacher is larger"
    assert last_model(recipe, 400).d_model == 16 and resolve_model(recipe, 400).d_model == 32


def test_what_neither_teaches_nor_learns_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = make_tiny(tmp_path)
    assert call(["plan", *arguments, without_teacher("")]) == 2
    assert "give `teacher`" in capsys.readouterr().err
    assert call(["plan", *arguments, without_teacher("student={}, lora_rank=2,")]) == 2
    assert "nothing that adapters could leave" in capsys.readouterr().err


def test_a_teacher_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no checkpoint"):
        teacher_checkpoint(tmp_path)
