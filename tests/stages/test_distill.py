"""Stage kind distill: nearer to its teacher; another tokenizer or no checkpoint is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.errors import ConfigError
from luthier.stages.distill import teacher_checkpoint
from tests.stages.conftest import make_tiny
from tests.stages.test_pipeline import run_json
from tests.stages.test_post import SMALL


def posted(teacher: str, more: str = "") -> str:
    shape = "steps = 12, global_batch_tokens = 256, eval_tokens = 512, eval_every = 4, sample_every = 12, lr = 5e-3"
    return f'post=[{{kind="distill", name="learn", {shape}, {more} teacher="{teacher}"}}]'


def test_it_comes_nearer_to_its_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*make_tiny(tmp_path), *SMALL]
    teacher = run_json([*arguments, "pretrain.steps=24", "model.d_model=48", "--until", "pretrain"], capsys)
    made = run_json([*arguments, posted(teacher["run"]), "--until", "learn"], capsys)
    rows = [json.loads(line) for line in (Path(made["run"]) / "learn" / "metrics.jsonl").read_text().splitlines()]
    divergences = [row["post/divergence"] for row in rows if "post/divergence" in row]
    assert divergences[-1] < 0.8 * divergences[0]
    assert made["post"]["learn"]["divergence"] > 0 and made["post"]["learn"]["bpb_change"] < 0
    again = run_json([*arguments, posted(teacher["run"]), "--until", "learn"], capsys)
    assert all(stage["cached"] for stage in again["stages"])
    other = run_json([*arguments, posted(teacher["run"], 'rows = "sft",'), "--until", "learn"], capsys)
    assert other["weights_sha256"] != made["weights_sha256"]

    assert call(["run", *arguments, posted(teacher["run"]), "sft.sources=[]", "tokenizer.vocab_size=380", "--until", "learn"]) == 2
    assert "has another tokenizer" in capsys.readouterr().err


def test_a_teacher_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no checkpoint"):
        teacher_checkpoint(tmp_path)
