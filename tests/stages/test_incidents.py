import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch

from luthier.cli import call
from luthier.stages import training
from luthier.train.objective import NextToken, Rows


class Poisoned(NextToken):
    """Makes the loss of some batches, told by their content, not finite or far too large; counts them."""

    factor = math.nan
    modulus = 5
    bad: set[int]
    stop_after: int | None = None

    def __call__(self, forward: object, head: object, rows: Rows, n_targets: int) -> torch.Tensor:
        loss = super().__call__(forward, head, rows, n_targets)  # type: ignore[arg-type]
        number = int(rows.inputs.sum())
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after == 0:
                os.kill(os.getpid(), signal.SIGINT)
        if number % self.modulus:
            return loss
        self.bad.add(number)
        return loss * self.factor


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> type[Poisoned]:
    class Fresh(Poisoned):
        bad: set[int] = set()  # noqa: RUF012

    monkeypatch.setattr(training, "NextToken", Fresh)
    return Fresh


def pretrained(arguments: list[str], capsys: pytest.CaptureFixture[str], expect: int = 0) -> tuple[dict, str]:
    capsys.readouterr()
    assert call(["pretrain", "--json", *arguments]) == expect
    told = capsys.readouterr()
    return (json.loads(told.out) if expect == 0 else {}), told.err


def metrics(run: str) -> list[dict]:
    return [json.loads(line) for line in (Path(run) / "pretrain" / "metrics.jsonl").read_text().splitlines()]


def test_a_bad_batch_is_left_out_its_documents_saved_and_counted(
    tiny: list[str], capsys: pytest.CaptureFixture[str], poison: type[Poisoned]
) -> None:
    """C1."""
    summary, said = pretrained(tiny, capsys)
    stage = Path(summary["run"]) / "pretrain"
    record = json.loads((stage / "stage.json").read_text())["summary"]
    assert record["steps"] == 24 and record["health"]["skipped"] == len(poison.bad) >= 1
    incidents = sorted((stage / "incidents").glob("*.json"))
    assert len(incidents) == len(poison.bad)
    incident = json.loads(incidents[0].read_text())
    assert incident["kind"] == "nonfinite" and incident["where"] == "the loss" and incident["policy"] == "skip"
    rows = [json.loads(line) for line in incidents[0].with_suffix(".jsonl").read_text().splitlines()]
    assert len(rows) == 8 and all(row["documents"] and row["text"].strip() for row in rows)
    assert f"step {incident['step']}: loss nan" in said and "its batch is left out" in said
    lines = metrics(summary["run"])
    assert [row["step"] for row in lines if "train/loss" in row] == list(range(1, 25))
    assert len([row for row in lines if row.get("event") == "nonfinite"]) == len(poison.bad)


def test_stop_is_a_policy_and_keeps_the_last_checkpoint(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], poison: type[Poisoned]
) -> None:
    """C1."""
    arguments = [*tiny, "pretrain.on_nonfinite=stop", "pretrain.checkpoint_every=1"]
    _, said = pretrained(arguments, capsys, expect=1)
    assert "first seen in the loss" in said and "Traceback" not in said and "incidents" in said
    poison.modulus = 10**9
    summary, said = pretrained(arguments, capsys)
    assert "going on from step" in said and summary["steps"] == 24


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_many_bad_steps_in_a_row_end_the_run_with_the_last_good_checkpoint(
    tiny: list[str], capsys: pytest.CaptureFixture[str], poison: type[Poisoned], policy: str
) -> None:
    """C3."""
    arguments = [*tiny, f"pretrain.on_nonfinite={policy}", "pretrain.checkpoint_every=4", "pretrain.max_bad_steps=3"]
    poison.modulus = 10**9
    _, _ = pretrained([*arguments, "pretrain.steps=8"], capsys)
    poison.modulus = 1
    _, said = pretrained(arguments, capsys, expect=1)
    assert "3 bad steps in a row" in said and said.count("loss nan") == 3


def test_rollback_goes_back_leaves_out_what_came_since_and_gives_the_same_bits_after_a_stop(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], poison: type[Poisoned]
) -> None:
    """C1."""
    options = ["pretrain.on_nonfinite=rollback", "pretrain.checkpoint_every=4", "pretrain.max_bad_steps=50"]
    summary, said = pretrained([*tiny, *options], capsys)
    assert "back to step" in said
    lines = metrics(summary["run"])
    assert [row["step"] for row in lines if "train/loss" in row] == list(range(1, 25))
    health = json.loads((Path(summary["run"]) / "pretrain" / "stage.json").read_text())["summary"]["health"]
    assert health["rollbacks"] >= 1

    again = [*tiny, *options, f"runs.root={tmp_path / 'again'}"]
    poison.stop_after = 7
    codes: list[int] = []
    while len(codes) < 20 and 0 not in codes:  # stopped after seven batches, and started again
        codes.append(call(["pretrain", "--json", *again]))
    assert codes == [*[130] * (len(codes) - 1), 0] and len(codes) > 3
    other, _ = pretrained(again, capsys)
    assert other["weights_sha256"] == summary["weights_sha256"]
    keep = ("step", "train/loss", "event", "val/loss")
    assert [[row.get(k) for k in keep] for row in metrics(other["run"])] == [[row.get(k) for k in keep] for row in lines]


@pytest.mark.parametrize("policy", ["log", "skip"])
def test_a_spike_is_counted_and_its_batch_left_out_when_asked(
    tiny: list[str], capsys: pytest.CaptureFixture[str], poison: type[Poisoned], policy: str
) -> None:
    """C2."""
    poison.factor, poison.modulus = 20.0, 7
    summary, said = pretrained([*tiny, f"pretrain.on_spike={policy}", "pretrain.steps=60"], capsys)
    health = json.loads((Path(summary["run"]) / "pretrain" / "stage.json").read_text())["summary"]["health"]
    assert health["spikes"] >= 1 and health["skipped"] == (health["spikes"] if policy == "skip" else 0)
    assert "far above the last ones" in said
    losses = [row["train/loss"] for row in metrics(summary["run"]) if "train/loss" in row]
    assert len(losses) == 60
    if policy == "skip":
        assert max(losses[20:]) < 20


def test_rollback_needs_a_fixed_place_to_go_back_to(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(tiny[0])
    source.write_text(source.read_text().replace("checkpoint_every = 5\n", ""))
    _, said = pretrained([*tiny, "pretrain.on_spike=rollback"], capsys, expect=2)
    assert "`rollback` needs `checkpoint_every`" in said
