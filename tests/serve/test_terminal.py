"""The terminal chat: commands, stopping, what a bad answer may not do to a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from luthier.config.sampling import SamplingSection
from luthier.generate.chat import ChatSession
from luthier.generate.engine import Engine
from luthier.serve.terminal import chat, printable, size
from luthier.tokenizer.tokenizer import Tokenizer
from tests.generate.conftest import tiny_decoder
from tests.serve.conftest import CONTEXT, ScriptedEngine

SETTINGS = SamplingSection(max_new_tokens=60)


def talk(engine: Engine, tokenizer: Tokenizer, said: Any) -> tuple[str, ChatSession]:
    session = ChatSession(engine, tokenizer, SETTINGS, seed=1)
    out = io.StringIO()
    chat(session, "tiny", io.StringIO(said) if isinstance(said, str) else said, out)
    return out.getvalue(), session


def test_a_conversation(tokenizer: Tokenizer) -> None:
    out, session = talk(ScriptedEngine(tokenizer, "Four strings."), tokenizer, "What is it?\n\n  \nAnd you?\n/quit\nnever read\n")
    assert out.count("Four strings.") == 2
    assert [m.content for m in session.messages] == ["What is it?", "Four strings.", "And you?", "Four strings."]
    assert "tiny" in out
    assert "gets facts wrong" in out
    assert f"context of {CONTEXT} tokens" in out
    assert "\x1b" not in out


def test_a_real_model_until_the_end_of_input(tokenizer: Tokenizer) -> None:
    out, session = talk(Engine(tiny_decoder(tokenizer.vocab_size, CONTEXT)), tokenizer, "Hello\n")
    assert session.messages[-1].role == "assistant"
    assert printable(session.messages[-1].content) in out


def test_commands(tokenizer: Tokenizer) -> None:
    out, session = talk(ScriptedEngine(tokenizer, "Yes."), tokenizer, "Is it?\n/reset\n/help\n/nonsense\n/not a command\n")
    assert [m.content for m in session.messages] == ["/not a command", "Yes."]
    assert "Ctrl-D" in out
    assert "There is no command /nonsense" in out


def test_ctrl_c_stops_the_answer_and_not_the_chat(tokenizer: Tokenizer) -> None:
    def interrupt(step: int) -> None:
        if step == 4 and engine.steps == 4:
            raise KeyboardInterrupt

    engine = ScriptedEngine(tokenizer, "The violin has four strings.", interrupt)
    out, session = talk(engine, tokenizer, "What?\nAgain?\n")
    assert "[stopped]" in out
    assert out.rstrip().endswith("The violin has four strings.\n\n>")
    assert len(session.messages) == 4
    assert "The violin has four strings.".startswith(session.messages[1].content)


def test_ctrl_c_twice_at_the_prompt_leaves(tokenizer: Tokenizer) -> None:
    class Keys(io.StringIO):
        presses = 0

        def readline(self, *_: Any) -> str:
            self.presses += 1
            if self.presses == 2:
                return "Hi\n"
            raise KeyboardInterrupt

    keys = Keys()
    out, _ = talk(ScriptedEngine(tokenizer, "Yes."), tokenizer, keys)
    assert keys.presses == 4
    assert out.count("Ctrl-C again or /quit leaves.") == 2


def test_too_long_a_message_is_explained_and_the_chat_goes_on(tokenizer: Tokenizer) -> None:
    out, session = talk(ScriptedEngine(tokenizer, "Yes."), tokenizer, "strings " * 200 + "\nShort?\n")
    assert f"context holds {CONTEXT}" in out
    assert [m.content for m in session.messages] == ["Short?", "Yes."]


def test_forgetting_and_cut_answers_are_said(tokenizer: Tokenizer) -> None:
    out, _ = talk(ScriptedEngine(tokenizer, "x" * 500), tokenizer, "One?\nTwo?\n")
    assert out.count("[cut: the answer reached its longest length]") == 2
    assert out.count("the oldest messages are forgotten") == 1


def test_answers_cannot_command_the_terminal(tokenizer: Tokenizer) -> None:
    out, _ = talk(ScriptedEngine(tokenizer, "a\x1b[2Jb\x9b5mc [bold]d[/bold] :smile:"), tokenizer, "Hi\n")
    assert "a[2Jb5mc [bold]d[/bold] :smile:" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(("parameters", "text"), [(812, "812"), (4_096, "4.1k"), (3_170_000, "3.17M"), (1_240_000_000, "1.24B")])
def test_sizes(parameters: int, text: str) -> None:
    assert size(parameters) == text
