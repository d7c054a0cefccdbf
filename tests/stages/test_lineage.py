import json
from pathlib import Path

import pytest

from luthier.cli import call
from tests.stages.conftest import write_corpus


def pretrained(arguments: list[str], capsys: pytest.CaptureFixture[str], expect: int = 0) -> tuple[dict, str]:
    capsys.readouterr()
    assert call(["pretrain", "--json", *arguments]) == expect
    told = capsys.readouterr()
    return (json.loads(told.out) if expect == 0 else {}), told.err


def trained_steps(run: str) -> list[int]:
    lines = (Path(run) / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [row["step"] for row in map(json.loads, lines) if "train/loss" in row]


def test_another_learning_rate_needs_to_be_allowed_and_is_recorded(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A9."""
    first, _ = pretrained([*tiny, "pretrain.steps=10"], capsys)
    longer = [*tiny, "pretrain.steps=20", "optim.lr=1e-3", "--resume", Path(first["run"]).name]
    _, said = pretrained(longer, capsys, expect=2)
    assert "optim.lr: 0.005 -> 0.001" in said and "--allow-change optim.lr" in said and "pretrain.steps: 10 -> 20" in said
    _, said = pretrained([*longer, "--allow-change", "lr"], capsys, expect=2)
    assert "optim.lr" not in said and "pretrain.steps: 10 -> 20" in said

    second, said = pretrained([*longer, "--allow-change", "lr", "--allow-change", "steps"], capsys)
    assert "going on from step 10 of 20" in said
    assert second["run"] != first["run"] and second["steps"] == 20
    record = json.loads((Path(second["run"]) / "run.json").read_text())
    assert record["parents"] == [Path(first["run"]).name]
    assert record["changes"] == ["optim.lr: 0.005 -> 0.001", "pretrain.steps: 10 -> 20"]
    assert trained_steps(second["run"]) == list(range(1, 21)) and trained_steps(first["run"]) == list(range(1, 11))

    third, _ = pretrained([*longer, "--allow-change", "lr", "--allow-change", "steps"], capsys)
    assert third["weights_sha256"] == second["weights_sha256"] and all(stage["cached"] for stage in third["stages"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.d_ff=96", "model.d_ff: 64 -> 96"),
        ("tokenizer.vocab_size=380", "tokenizer.vocab_size: 400 -> 380"),
        ("pack.seq_len=16", "pack.seq_len: 32 -> 16"),
        ("pretrain.global_batch_tokens=128", "pretrain.global_batch_tokens: 256 -> 128"),
        ("data.dedup=false", "data.dedup: True -> False"),
        ("run.seed=2", "run.seed: 1 -> 2"),
    ],
)
def test_another_order_of_tokens_or_another_model_is_refused_with_a_diff(
    tiny: list[str], capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    """A9."""
    first, _ = pretrained([*tiny, "pretrain.steps=2"], capsys)
    allowed = ["--allow-change", change.split("=")[0]]
    _, said = pretrained([*tiny, "pretrain.steps=2", change, "--resume", Path(first["run"]).name, *allowed], capsys, expect=2)
    assert "another order of tokens, or another model" in said and words in said


def test_changed_documents_are_refused_with_a_diff_and_begin_anew_when_allowed(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A9."""
    first, _ = pretrained(tiny, capsys)
    write_corpus(tmp_path / "corpus", seed=9)
    _, said = pretrained(tiny, capsys, expect=2)
    assert "pretrain had begun with something else" in said and "data.inputs.source.0:" in said and "--allow-change data" in said
    second, _ = pretrained([*tiny, "--allow-change", "data"], capsys)
    assert second["weights_sha256"] != first["weights_sha256"]
    write_corpus(tmp_path / "corpus")
    third, _ = pretrained([*tiny, "--allow-change", "data"], capsys)
    assert third["weights_sha256"] == first["weights_sha256"] and all(stage["cached"] for stage in third["stages"])


def test_a_parent_without_a_checkpoint_is_one_sentence(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call(["data", *tiny]) == 0
    run = next(p for p in (Path(tiny[0]).parent / "runs").glob("tiny-*"))
    _, said = pretrained([*tiny, "--resume", run.name], capsys, expect=1)
    assert "no whole checkpoint to go on from" in said
