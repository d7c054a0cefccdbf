"""Fine-tuning: what is learned, which checkpoint is taken, noise that survives a stop, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import call
from luthier.errors import CheckpointError
from luthier.pack import conversations
from luthier.pack.conversations import ConversationRows
from luthier.plan.report import plan
from luthier.stages.arguments import recipe_from
from luthier.stages.recorder import Recorder
from luthier.stages.sft import require_same_template
from luthier.train import checkpoint, objective
from luthier.train.loop import Moment
from luthier.train.saving import Saver
from tests.tokenizer.kinds import tokenizer_of

SHORT = ["pretrain.steps=4", "pretrain.sample_every=100", "sft.sample_every=100", "sft.eval_every=4"]
ABOUT_ITSELF = 'sft.sources=[{task="personality"}]'


def sft(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], Path]:
    """Run up to the tuned model; return what the stage says of itself and its directory."""
    capsys.readouterr()
    assert call(["sft", "--json", *arguments]) == 0
    directories = {stage["name"]: stage["directory"] for stage in json.loads(capsys.readouterr().out)["stages"]}
    directory = Path(directories["sft"])
    return json.loads((directory / "stage.json").read_text())["summary"], directory


@pytest.fixture
def less_learned_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn validation losses around, so that the first checkpoint that is validated is the best one."""
    mean_loss = objective.mean_loss
    monkeypatch.setattr(objective, "mean_loss", lambda *given: 10 - mean_loss(*given))


@pytest.mark.usefixtures("less_learned_is_better")
def test_noise_is_drawn_alike_after_a_stop_and_the_best_checkpoint_is_taken(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*tiny, *SHORT, "sft.neftune_alpha=5", "sft.take=best", "sft.supervise=last", "sft.lr=0.05", "sft.sample_every=4"]
    expected, directory = sft([*given, f"runs.root={tmp_path / 'undisturbed'}"], capsys)
    losses = {row["step"]: row["val/loss"] for row in _metrics(directory) if "val/loss" in row}
    best = min(losses, key=lambda step: (losses[step], step))
    assert (expected["taken_step"], expected["validation"]["loss"]) == (best, losses[best])
    assert expected["validation_last"]["loss"] == losses[max(losses)] and len(losses) > 2
    base = expected["found"][0]
    assert base[:2] == [expected["found"][1][0], "before"] and json.loads((directory / "before.json").read_text())["bpb"] > 0
    assert all(row["val/bpb"] > 0 and "val/bpb_change" in row for row in _metrics(directory) if "val/loss" in row)
    assert best != max(losses) and json.loads((directory / "taken.json").read_text()) == {"checkpoint": f"step_{best:06d}"}
    (row,) = [row for row in _metrics(directory) if row.get("val/loss") == losses[best]]
    assert expected["validation"] == {key.removeprefix("val/"): value for key, value in row.items() if key.startswith("val/")}
    said = [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    after = [text for _, when, text in expected["found"] if when == "after"]
    assert after == [row["text"] for row in said if row["step"] == best] != [row["text"] for row in said if row["step"] == max(losses)]

    validate = Recorder._validate

    def stop_at_8(self: Recorder, moment: Moment) -> None:
        validate(self, moment)
        if self._training.name == "sft" and moment.step == 8:
            assert self._training.job.stop.stop_file is not None
            self._training.job.stop.stop_file.touch()

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "_validate", stop_at_8)
        assert call(["sft", *given]) == 130
    capsys.readouterr()
    again, resumed = sft(given, capsys)
    assert again["weights_sha256"] == expected["weights_sha256"]
    assert [row.get("train/loss") for row in _metrics(resumed)] == [row.get("train/loss") for row in _metrics(directory)]
    quiet, _ = sft([*given, "sft.neftune_alpha=0"], capsys)
    assert quiet["weights_sha256"] != expected["weights_sha256"]


def _metrics(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("less_learned_is_better")
def test_a_best_checkpoint_that_is_gone_is_said(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Saver, "_protected", lambda self, shot: [])
    assert call(["sft", *tiny, *SHORT, "sft.take=best", "sft.keep_checkpoints=1"]) == 1
    assert "step_000004: the checkpoint with the lowest validation loss is not there" in capsys.readouterr().err


def test_it_learns_who_it_is(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    called = [*tiny, *SHORT, ABOUT_ITSELF, "pack.seq_len=64", "run.name=Ada"]
    summary, directory = sft(called, capsys)
    assert summary["sources"][0]["name"] == "personality" and summary["conversations"]["train"]["supervised_fraction"] > 0.3
    assert sft([*called[:-1], "run.name=Bob"], capsys)[1] != directory
    assert sft([*called[:-1], "run.name=Bob", "sft.assistant_name=Ada"], capsys)[0]["weights_sha256"] == summary["weights_sha256"]


def test_show_marks_what_is_learned(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["sft", "show", "--json", "-n", "2", *tiny, "pack.seq_len=64"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["conversations"]) == 2
    for row in shown["conversations"]:
        assert row["place"].startswith("instructions.jsonl:") and row["fate"] == "whole"
        asked, answered = row["pieces"]
        assert (asked["learned"], answered["learned"]) == (False, True)
        assert asked["text"].startswith("<|user|> What does") and asked["text"].endswith("<|end_of_turn|><|assistant|>")
        assert answered["text"].startswith(" The ") and answered["text"].endswith(".<|end_of_turn|>")
        assert (asked["tokens"] + answered["tokens"], answered["tokens"]) == (row["tokens"], row["supervised_tokens"])
    assert call(["sft", "show", "-n", "1", *tiny, "pack.seq_len=64", "sft.supervise=all", "sft.system_prompt=Be kind."]) == 0
    plain = capsys.readouterr().out
    assert "<|system|>⟦ Be kind.<|end_of_turn|><|user|>" in plain and "1 of 5" in plain
    assert call(["sft", "show", *tiny, "sft.sources=[]"]) == 2
    assert "nothing to show" in capsys.readouterr().err


def test_show_has_colours_on_a_terminal(tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    given = ["sft", "show", "-n", "1", *tiny, "pack.seq_len=64"]
    assert call(given) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\x1b\[1m[^\x1b]* tokens are learned, whole", shown) and "⟦" not in shown
    assert re.search(r"\x1b\[2m<\|user\|> What does", shown) and re.search(r"\x1b\[1;32m The ", shown)
    monkeypatch.setenv("NO_COLOR", "1")
    assert call(given) == 0
    plain = capsys.readouterr().out
    assert "⟦ The " in plain and "\x1b" not in plain


def test_another_template_than_the_checkpoints_is_refused(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, other, shared = tokenizer_of("bpe", "back"), tokenizer_of("characters bytes", "front"), tokenizer_of("bpe", "shared")
    require_same_template(plain, plain, Path("step_1"))
    for ours in (other, shared):
        with pytest.raises(CheckpointError, match=r"step_1: it has another (chat template|tokenizer) than the recipe"):
            require_same_template(ours, plain, Path("step_1"))
    load_model = checkpoint.load_model
    monkeypatch.setattr(checkpoint, "load_model", lambda *given: (load_model(*given)[0], plain))
    assert call(["sft", *tiny, *SHORT]) == 1
    assert "step_000004: it has another chat template than the recipe" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_with_a_wrong_mask_are_refused(
    split: str, tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack: Any = conversations.pack_conversations

    def wrong(*given: Any) -> dict[str, Any]:
        *others, supervise = given
        return pack(*others, "all" if split in others else supervise)

    monkeypatch.setattr(conversations, "pack_conversations", wrong)
    assert call(["sft", *tiny, *SHORT]) == 2
    assert f"{split}-tokens.npy: row 0, token 1: a target that the assistant does not say" in capsys.readouterr().err


def test_noise_does_not_go_with_replays(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["sft", *tiny, "sft.neftune_alpha=5", "sft.replay_every=2"]) == 2
    assert "does not go with" in capsys.readouterr().err


def test_rows_may_have_a_length_of_their_own(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And pretraining's may be drawn with replacement before."""
    _, directory = sft([*tiny, *SHORT, "pretrain.replacement=true", "sft.seq_len=48", "model.max_seq_len=48", "sft.epochs=0.3"], capsys)
    assert ConversationRows.open(directory, "train").seq_len == 48


def test_a_tokenizer_without_all_of_its_entries_is_no_match_for_the_stated_parameters(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*tiny, "tokenizer.vocab_size=3000"]
    stated = plan(recipe_from(given)[0], None).params
    assert call(["pretrain", *given, f"expected_params={stated}"]) == 2
    said = capsys.readouterr().err
    assert f"the recipe says {stated:,}, with " in said and "Traceback" not in said
