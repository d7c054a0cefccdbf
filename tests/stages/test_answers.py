"""Verb sft answer: what a model says to prompts is a file of conversations that another learns from; stopped, it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.runs.directory import RunDirectory
from luthier.stages import answers
from luthier.stages.loading import load_run
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import render_prompt
from tests.stages.conftest import NOUNS, make_tiny
from tests.stages.test_pipeline import run_json
from tests.stages.test_post import SMALL


def test_what_was_answered_is_read_again_whatever_it_holds(tmp_path: Path) -> None:
    said = [[{"answer": "one\u2028two\u2029three\u0085four"}], [{"left_out": "empty"}]]
    whole = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in ["known", *said]).encode()
    partial = tmp_path / "said.partial"
    for torn in ("", '[{"answer": "é'):
        partial.write_bytes(whole + torn.encode()[: len(torn)])
        assert answers._read(partial, "known") == said and partial.read_bytes() == whole
    assert answers._read(partial, "other") == answers._read(tmp_path / "none", "known") == []


class Killed(Exception):
    """What stands for the end of the process."""


def make_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run whose model says "Yes." and ends."""
    asked = [{"instruction": f"Is the {noun} old? {i}", "output": "Yes."} for noun in NOUNS for i in range(10)]
    (tmp_path / "yes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    taught = [f'sft.sources=[{{path="{tmp_path / "yes.jsonl"}"}}]', "sft.epochs=6", "sft.lr=1e-2", "sft.system_prompt='Say it.'"]
    return Path(run_json([*make_tiny(tmp_path), *SMALL, *taught, "pack.seq_len=64", "--until", "sft"], capsys)["run"])


def test_a_teacher_writes_what_another_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "AT_ONCE", 4)
    teacher = make_teacher(tmp_path, capsys)
    prompts = [{"prompt": f"Is the {noun} old?"} for noun in NOUNS[:9]]
    long, repeated, bad = {"prompt": "Is it old? " * 20}, prompts[0], {"text": "x"}
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*prompts, long, repeated, bad]))
    command = ["sft", "answer", str(teacher), str(tmp_path / "prompts.jsonl"), "--temperature", "0", "--max-new-tokens", "8"]
    assert call([*command, "--to", str(tmp_path / "said.jsonl"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    lines = (tmp_path / "said.jsonl").read_text().splitlines()
    assert said["conversations"] == len(lines) > 0
    assert said["left_out"].pop("too_long") == 1 and sum(said["left_out"].values()) == 1 + 9 - len(lines)

    loaded = load_run(RunDirectory(teacher))
    for line in lines:
        asked, answered = json.loads(line)["messages"]
        ids = render_prompt([Message("system", "Say it."), Message("user", asked["content"])], loaded.tokenizer)
        greedy = loaded.recipe.sampling.model_copy(update={"temperature": 0, "max_new_tokens": 8})
        stop = frozenset({loaded.tokenizer.special.end_of_turn})
        alone = loaded.engine.generate(ids, greedy, stop_ids=stop, seed=1)
        assert answered["content"] == loaded.tokenizer.decode(alone.ids).strip()

    made, calls = answers._together, list[int]()

    def counted(*given):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return made(*given)

    monkeypatch.setattr(answers, "_together", counted)
    again = [*command, "--to", str(tmp_path / "again.jsonl")]
    with pytest.raises(Killed):
        call(again)
    with (tmp_path / "again.jsonl.partial").open("a") as file:
        file.write('[{"answer": "to')
    assert call(again) == 0 and len(calls) == 4, "the first four are not answered again"
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "said.jsonl").read_bytes()
    assert not (tmp_path / "again.jsonl.partial").exists()
    capsys.readouterr()
    assert call(again) == 2 and "is there already" in capsys.readouterr().err

    small = ["model.d_model=16", "pack.seq_len=64", f'sft.sources=[{{path="{tmp_path / "said.jsonl"}"}}]', "--until", "sft"]
    pupil = run_json([*make_tiny(tmp_path), *SMALL, *small], capsys)
    record = json.loads((Path(pupil["run"]) / "sft" / "conversations.json").read_text())
    assert record["sources"][0]["conversations"] == len(lines)


def test_nothing_to_answer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = run_json([*make_tiny(tmp_path), "pretrain.steps=2", "sft.sources=[]", "--until", "pretrain"], capsys)["run"]
    (tmp_path / "none.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "one.jsonl").write_text('{"prompt": "Is it old?"}\n')
    for name, words in (("none", "no prompt"), ("one", "no answer ended by itself")):
        to = str(tmp_path / "said.jsonl")
        assert call(["sft", "answer", teacher, str(tmp_path / f"{name}.jsonl"), "--to", to, "--max-new-tokens", "1"]) != 0
        assert words in capsys.readouterr().err and not (tmp_path / "said.jsonl").exists()
