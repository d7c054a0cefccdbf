"""Stage kind dpo: learns what is preferred, caches the reference, and comes out the same after kills."""

from __future__ import annotations

import html
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.config.load import load_recipe
from luthier.stages.order import load_stage, model_stages
from tests.stages.conftest import make_tiny, write_pairs
from tests.stages.test_pipeline import run_json
from tests.stages.test_post import SMALL


def posted(tmp_path: Path, more: str = "") -> str:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    shape = "epochs = 3, global_batch_tokens = 256, eval_tokens = 2048, eval_every = 4, sample_every = 8, checkpoint_every = 3, lr = 2e-3"
    return f'post=[{{kind="dpo", name="kind", {shape}, validation_share = 0.2, {more} sources=["{pairs}"]}}]'


def test_it_learns_what_is_preferred(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", posted(tmp_path)]
    made = run_json(arguments, capsys)
    run = Path(made["run"])
    rows = [json.loads(line) for line in (run / "kind" / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in rows if "post/margin" in row)
    last = [row for row in rows if "val/accuracy" in row][-1]
    assert first["post/margin"] == pytest.approx(0.0, abs=1e-3) and first["train/loss"] == pytest.approx(0.6931, abs=1e-3)
    assert last["val/accuracy"] >= 0.9 and last["val/margin"] > 0 and last["val/kl"] > 0
    assert {"val/bpb", "val/bpb_change", "val/chosen_tokens", "post/chosen_logprob", "post/chosen_longer"} <= {
        key for row in rows for key in row
    }
    assert made["post"]["kind"]["accuracy"] == last["val/accuracy"]
    report = (run / "report.html").read_text()
    section = report.partition("<h2>kind <small>(dpo)</small></h2>")[2].partition("</section>")[0]
    compared = json.loads((run / "kind" / "stage.json").read_text())["summary"]["found"]
    assert [when for _, when, _ in compared] == ["before", "after"] * (len(compared) // 2) and compared
    for prompt, when, text in compared:
        asked, said = (html.escape(one, quote=False) for one in (prompt, text))
        assert f'{asked}</td><td class="number">{when}</td><td class="text">{said}</td>' in section
    root = ["--root", str(run.parent)]
    assert call(["verify", run.name, *root]) == 0

    reference = run / "kind" / "train-reference.npy"
    whole = reference.read_bytes()
    reference.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert call(["verify", run.name, *root]) == 1
    assert call(["verify", run.name, "--repair", *root]) == 0
    assert reference.read_bytes() == whole


def test_killed_and_resumed_gives_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", posted(tmp_path), "--until", "kind"]
    expected = run_json([*arguments, f"runs.root={tmp_path / 'undisturbed'}"], capsys)
    run_json([*arguments[:-1], "sft"], capsys)
    for moment in ("the reference looks at", "kind: step 8/"):
        command = [sys.executable, "-m", "luthier", "run", *arguments]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert child.stderr is not None
        seen = next((line for line in child.stderr if moment in line), None)
        child.send_signal(signal.SIGKILL)
        child.stderr.close()
        child.wait()
        assert seen is not None
    final = run_json(arguments, capsys)
    assert final["weights_sha256"] == expected["weights_sha256"]
    steps = [json.loads(line) for line in (Path(final["run"]) / "kind" / "metrics.jsonl").read_text().splitlines()]
    trained = [row["step"] for row in steps if "train/loss" in row]
    assert trained == list(range(1, trained[-1] + 1))


def test_adapters_move_only_what_they_adapt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from luthier.model.weights import load_tensors

    arguments = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", posted(tmp_path, 'lora_rank = 4, lora_targets = ["q_proj"],')]
    run = Path(run_json([*arguments, "--until", "kind"], capsys)["run"])
    before, after = (load_tensors(max((run / stage).glob("checkpoints/*/model.safetensors"))) for stage in ("sft", "kind"))
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {f"layers.{layer}.self_attn.q_proj.weight" for layer in range(2)}


@pytest.mark.parametrize("loss", ["simpo", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("ipo", "orpo"))])
def test_its_relatives_train(loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", posted(tmp_path, f'loss = "{loss}",'), "post.kind.epochs=1"]
    arguments.append("model.logit_softcap=20")
    made = run_json([*arguments, "--until", "kind"], capsys)
    assert (Path(made["run"]) / "kind" / "train-reference.npy").exists() == (loss == "ipo")
    assert made["post"]["kind"]["loss"] > 0


def test_a_reward_model_stands_beside_the_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    shape = f'global_batch_tokens = 256, eval_tokens = 2048, validation_share = 0.2, lr = 2e-3, epochs = 2, sources = ["{pairs}"]'
    post = f'post=[{{kind="reward", name="judge", {shape}}}, {{kind="dpo", name="kind", {shape}}}]'
    made = run_json([*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", post, "--until", "judge"], capsys)
    assert made["post"]["judge"]["accuracy"] >= 0.7
    tuned = json.loads((Path(made["run"]) / "sft" / "stage.json").read_text())["summary"]["weights_sha256"]
    assert made["weights_sha256"] == tuned, "a reward model is not what speaks"
    recipe = load_recipe([str(tmp_path / "tiny.toml")], [post])
    assert model_stages(recipe) == ("pretrain", "sft", "kind") and load_stage("kind", recipe).needs == ("tokenizer", "pack", "sft")
