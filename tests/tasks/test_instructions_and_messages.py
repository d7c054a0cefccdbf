from __future__ import annotations

from typing import Any

import pytest

from luthier.tasks import instructions, messages
from luthier.tasks.conversation import conversation


def _contents(made: Any) -> list[list[tuple[str, str]]]:
    return [[(message.role, message.content) for message in one.messages] for one in made]


def test_instructions() -> None:
    records = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": "Hi\r\n"},
        {"instruction": "", "output": "x"},
        {"instruction": "x", "output": None},
    ]
    assert _contents(instructions.conversations(records, "s")) == [
        [("user", "Add.\n\n1 and 2"), ("assistant", "3")],
        [("user", "Say hi."), ("assistant", "Hi")],
    ]


def _turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{role} says"} for role in roles]}


@pytest.mark.parametrize("roles", [("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user", "assistant")])
def test_messages_are_taken_as_they_are(roles: tuple[str, ...]) -> None:
    assert _contents(messages.conversations([_turns(*roles)], "s")) == [[(role, f"{role} says") for role in roles]]


def test_messages_are_cut_behind_the_last_answer() -> None:
    assert [role for role, _ in _contents(messages.conversations([_turns("user", "assistant", "user")], "s"))[0]] == ["user", "assistant"]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"messages": "text"},
        {"messages": []},
        _turns("user"),
        _turns("assistant", "user", "assistant"),
        _turns("user", "user", "assistant"),
        _turns("user", "tool", "assistant"),
        _turns("user", "system", "assistant"),
        {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "x"}]},
        {"messages": [{"role": ["user"], "content": "x"}, 5]},
    ],
)
def test_wrong_messages_give_none(record: dict[str, Any]) -> None:
    assert list(messages.conversations([record], "s")) == []


def test_ids_are_of_roles_and_contents() -> None:
    one = conversation([("user", "ab"), ("assistant", "c")], "s")
    assert one.id == conversation([("user", "ab"), ("assistant", "c")], "other").id
    assert one.id != conversation([("user", "a"), ("assistant", "bc")], "s").id
    assert one.id != conversation([("system", "ab"), ("assistant", "c")], "s").id
