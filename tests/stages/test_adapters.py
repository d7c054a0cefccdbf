"""The adapters that stages with `lora_rank` leave: over the model before they are the stage's model, whichever checkpoint that is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from luthier.cli import call
from luthier.errors import LuthierError
from luthier.export import parity
from luthier.train import objective
from tests.ranks import perform
from tests.stages.conftest import make_tiny, write_pairs
from tests.stages.test_pipeline import run_json

SHORT = ["pretrain.steps=4", "pack.seq_len=64", "export.parity_prompts=0", "eval.questions=['Why?']"]
SFT = ["sft.lora_rank=2", "sft.lr=0.02", "sft.take=best", "sft.eval_every=2", "sft.keep_checkpoints=1"]


def test_they_make_of_the_model_before_the_model_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    mean_loss = objective.mean_loss
    monkeypatch.setattr(objective, "mean_loss", lambda *given: 10 - mean_loss(*given))  # the first checkpoint is the best
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    dpo = f'post=[{{kind="dpo", name="kind", lora_rank=3, lr=0.01, global_batch_tokens=256, validation_share=0.2, sources=["{pairs}"]}}]'
    tiny = [*make_tiny(tmp_path), *SHORT, *SFT, dpo]
    run = Path(run_json([*tiny, "--until", "kind"], capsys)["run"])
    root = ["--root", str(run.parent)]
    taken = json.loads((run / "sft" / "stage.json").read_text())["summary"]
    assert taken["taken_step"] < taken["steps"]

    for stage in ("pretrain", "sft", "kind"):
        assert call(["export", run.name, "--stage", stage, "--to", str(tmp_path / stage), "--json", *root]) == 0
        assert json.loads(capsys.readouterr().out)["stage"] == stage
    ids = torch.arange(40).view(2, 20)
    models = {stage: transformers.AutoModelForCausalLM.from_pretrained(tmp_path / stage).eval() for stage in ("pretrain", "sft", "kind")}
    for before, stage in (("pretrain", "sft"), ("sft", "kind")):
        with torch.no_grad():
            plain, wanted = models[before](input_ids=ids).logits, models[stage](input_ids=ids).logits
            with pytest.warns(FutureWarning):
                tuned = peft.PeftModel.from_pretrained(models[before], run / stage / "adapters")
            torch.testing.assert_close(tuned(input_ids=ids).logits, wanted, atol=1e-5, rtol=1e-5)
        assert (plain - wanted).abs().max() > 1e-3
        tuned.unload()

    assert call(["verify", run.name, *root]) == 0
    victim = run / "sft" / "adapters" / "adapter_model.safetensors"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert call(["verify", run.name, *root]) == 1
    assert call(["verify", run.name, "--repair", *root]) == 0
    assert victim.read_bytes() == whole


def test_of_several_ranks_the_leading_one_leaves_them(tmp_path: Path) -> None:
    """The others do not look for the best checkpoint, which may not be on the disk yet."""
    recipe = [*make_tiny(tmp_path), *SHORT, *SFT, "sft.epochs=0.3", "sft.eval_every=100"]
    play = {"size": 2, "arguments": ["sft", *recipe], "root": str(tmp_path / "runs"), "slow_to_save": 0.5}
    (parts,) = perform("tests.stages.ranks", [play])
    assert [part.result["code"] for part in parts] == [0, 0], [part.said for part in parts]
    (directory,) = (tmp_path / "runs").glob("store/sft/*")
    assert {path.name for path in (directory / "adapters").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (directory / "taken.json").exists()


def test_none_are_left_where_there_are_none_or_peft_could_not_take_them(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    gpt2 = ["model.norm=layernorm", "model.mlp=gelu", "model.bias=true", "model.positions=learned", "model.n_kv_heads=2"]
    adapted = [*SHORT, "sft.epochs=0.2", "sft.lora_rank=2"]
    for overrides, words in (
        ([*gpt2, *adapted], ["sft: no adapters for peft: GPT2LMHeadModel has queries, keys and values in one matrix"]),
        ([*SHORT, "sft.epochs=0.2"], []),
    ):
        assert call(["sft", "--json", *tiny, *overrides]) == 0
        said = capsys.readouterr()
        assert [line for line in said.err.splitlines() if "adapters" in line] == words
        assert not (Path(json.loads(said.out)["run"]) / "sft" / "adapters").exists()


def test_a_stage_that_cannot_be_exported_is_said(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    to = ["--to", str(tmp_path / "base")]
    for arguments, words in (
        (["--stage", "pack", *to], "the recipe has no stage 'pack' that gives a model"),
        (["--stage", "pretrain"], "add --to DIR"),
        (["--to", str(tmp_path / "taken")], "not an empty folder"),
    ):
        assert call(["export", *tiny, *SHORT, *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists(), "nothing has run"
    run = Path(run_json([*tiny, *SHORT, "--until", "pretrain"], capsys)["run"])
    for arguments, code, words in (
        (["--stage", "pack", *to], 2, "these do: pretrain, sft"),
        (["--stage", "pretrain"], 2, "add --to DIR"),
        (["--stage", "pretrain", "--to", str(tmp_path / "taken")], 2, "not an empty folder"),
        (["--stage", "sft", *to], 1, "stage sft is not finished"),
    ):
        assert call(["export", str(run), *arguments]) == code
        assert words in capsys.readouterr().err
    assert not (tmp_path / "base").exists()


def test_the_folder_appears_when_it_is_proven_and_nothing_beside_it_is_touched(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["export", *tiny, *SHORT, "model.value_embeddings=true", "--stage", "pretrain", "--to"]
    place = tmp_path / "place"
    for mine in ("base.tmp", "base.old", "here"):
        (place / mine).mkdir(parents=True)
    monkeypatch.chdir(place / "here")

    def refuse(*_: object) -> None:
        raise LuthierError("other tokens")

    with monkeypatch.context() as patched:
        patched.setattr(parity, "check_parity", refuse)
        assert call([*given, "../base", "export.parity_prompts=1"]) == 1
    assert "other tokens" in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == ["base.old", "base.tmp", "here"]
    for to in ("../base", "."):
        assert call([*given, to]) == 0
        assert f"from_pretrained('{Path(to).resolve()}', trust_remote_code=True)" in capsys.readouterr().out
        assert (Path(to) / "modeling_luthier.py").exists()
    assert sorted(path.name for path in place.iterdir()) == ["base", "base.old", "base.tmp", "here"]
