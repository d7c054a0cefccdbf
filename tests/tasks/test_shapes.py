"""Every shape that people have, by its own task and by `auto`."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.tasks import auto
from luthier.tasks.build import TASKS
from luthier.tasks.conversation import Unfit, conversation

Turns = list[tuple[str, str]]
QA: Turns = [("user", "Hi"), ("assistant", "Hello")]
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
WHO: Turns = [("user", "It was Ann.\n\nWho?"), ("assistant", "Ann")]
FIRE: Turns = [("user", "Wet?\nA. Fire\nB. Rain"), ("assistant", "A. Fire")]
RAIN: Turns = [("user", "Wet?\nA. Fire\nB. Rain"), ("assistant", "B. Rain")]
SUM: Turns = [("user", "2+2?"), ("assistant", "2+2=4\n#### 4")]
SHAPES: list[tuple[str, dict[str, Any], list[Turns]]] = [
    ("messages", {"messages": [{"role": "system", "content": "S"}, *({"role": r, "content": c} for r, c in QA)]}, [[("system", "S"), *QA]]),
    ("messages", {"messages": [{"role": r, "content": c} for r, c in [*QA, ("user", "And?")]]}, [QA]),
    ("messages", {"messages": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'}, [QA]),
    ("sharegpt", {"conversations": [HUMAN, GPT]}, [QA]),
    ("sharegpt", {"conversations": [GPT, HUMAN, GPT]}, [QA]),
    ("sharegpt", {"conversation": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, [QA]),
    ("turns", {"turns": [["USER", "Hi"], ["SYSTEM", "Hello"]]}, [QA]),
    ("turns", {"turns": [{"speaker": "USER", "utterance": "Hi"}, {"speaker": "SYSTEM", "utterance": "Hello"}]}, [QA]),
    ("instructions", {"instruction": "Add.", "input": "1 and 2", "output": "3"}, [[("user", "Add.\n\n1 and 2"), ("assistant", "3")]]),
    ("instructions", {"instruction": "Say hi.", "input": "", "output": "Hi\r\n"}, [[("user", "Say hi."), ("assistant", "Hi")]]),
    ("instructions", {"instruction": "Say hi.", "input": "<noinput>", "output": "Hi"}, [[("user", "Say hi."), ("assistant", "Hi")]]),
    ("dolly", {"instruction": "Who?", "context": "It was Ann.", "response": "Ann"}, [WHO]),
    ("dolly", {"instruction": "Who?", "context": "", "response": "Ann"}, [[("user", "Who?"), ("assistant", "Ann")]]),
    (
        "passages",
        {"context": "It was Ann.", "question": "Who?", "answers": {"text": ["Ann", "It was Ann"], "answer_start": [7, 0]}},
        [WHO],
    ),
    (
        "passages",
        {"passage": "It was Ann.", "question": "Who?", "answers": [{"text": "Ann"}]},
        [WHO],
    ),
    ("completions", {"prompt": "Hi", "completion": "Hello"}, [QA]),
    ("completions", {"prompt": "Hi", "response": "Hello"}, [QA]),
    ("completions", {"query": "Hi", "response": "Hello"}, [QA]),
    ("completions", {"problem": "Hi", "generated_solution": "Hello", "expected_answer": "o"}, [QA]),
    ("questions", {"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"}, [SUM]),
    ("choices", {"question": "Wet?", "options": ["Fire", "Rain"], "answer": 1}, [RAIN]),
    ("choices", {"question": "Wet?", "options": ["Fire", "Rain"], "answer": 0}, [FIRE]),
    (
        "choices",
        {"question": "Wet?", "choices": {"text": ["Fire", "Rain"], "label": ["1", "2"]}, "answerKey": "2"},
        [RAIN],
    ),
    (
        "choices",
        {"question": "Wet?", "options": '["Fire", "Rain"]', "answer": "Rain"},
        [RAIN],
    ),
    (
        "fairytales",
        {
            "name": "x",
            "sections": ["One.", "Two.", "Three."],
            "questions": [
                {"section": "1,3", "question": "Q?", "answer": "A"},
                {"section": 2, "question": "R?", "answer": 7},
                {"section": "1,3", "question": "S?", "answer": "C"},
            ],
        },
        [
            [("user", "One.\n\nThree.\n\nQ?"), ("assistant", "A"), ("user", "S?"), ("assistant", "C")],
            [("user", "Two.\n\nR?"), ("assistant", "7")],
        ],
    ),
    ("cookbook", {"title": "Tea", "ingredients": ["water", "leaves"], "steps": ["Boil."]}, []),
    ("encyclopedia", {"title": "Music", "extract": "Music is the arrangement of sound in time."}, []),
]  # fmt: skip


def made(task: Any, record: dict[str, Any]) -> list[Turns]:
    return [[(message.role, message.content) for message in one.messages] for one in task.conversations(record, "s")]


@pytest.mark.parametrize(("name", "record", "expected"), SHAPES, ids=[f"{name}-{n}" for n, (name, _, _) in enumerate(SHAPES)])
def test_a_shape_is_read_by_its_task_and_by_auto(name: str, record: dict[str, Any], expected: list[Turns]) -> None:
    found = made(TASKS[name], record)
    assert found and (found == expected or not expected)
    assert made(auto, record) == found


def test_summaries_ask_in_several_ways() -> None:
    asked = set()
    for n in range(30):
        ((question, answer),) = made(auto, {"dialogue": f"A: {n}\nB: yes", "summary": "They agree."})
        asked.add(question[1].split("\n\n")[0])
        assert question[1].endswith(f"\n\nA: {n}\nB: yes") and answer == ("assistant", "They agree.")
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("messages", {"messages": "text"}, "not_a_list"),
        ("messages", {"messages": []}, "no_answer"),
        ("messages", {"messages": [{"role": ["user"], "content": "x"}]}, "unknown_role"),
        ("messages", {"messages": [5]}, "missing_role"),
        ("messages", {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]}, "wrong_order"),
        ("messages", {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]}, "wrong_order"),
        ("messages", {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "x"}]}, "empty_message"),
        ("messages", {"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}, "empty_answer"),
        ("messages", {"messages": [{"role": "user", "content": {"parts": []}}]}, "not_a_text"),
        ("sharegpt", {"conversations": [{"from": "robot", "value": "x"}]}, "unknown_role"),
        ("turns", {"turns": [["USER", "x"], ["SYSTEM"]]}, "missing_role"),
        ("instructions", {"instruction": "x", "output": ""}, "empty_answer"),
        ("instructions", {"instruction": " ", "output": "x"}, "empty_instruction"),
        ("instructions", {"instruction": "x", "output": None}, "missing_field"),
        ("passages", {"context": "x", "question": "y", "answers": {"text": []}}, "empty_answer"),
        ("choices", {"question": "x", "options": ["a", "b"], "answer": 2}, "wrong_answer"),
        ("choices", {"question": "x", "options": ["a", "b"], "answer": "z"}, "wrong_answer"),
        ("choices", {"question": "x", "options": ["a", "b"], "answer": ""}, "empty_answer"),
        ("choices", {"question": "x", "options": ["a"], "answer": 0}, "wrong_options"),
        ("fairytales", {"sections": ["x"], "questions": [{"section": "2", "question": "q", "answer": "a"}]}, "missing_section"),
        ("auto", {"unheard": "of"}, "unknown_fields"),
    ],
)
def test_what_does_not_fit_says_why(name: str, record: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unfit, match=f"^{reason}$"):
        list(TASKS[name].conversations(record, "s"))


def test_ids_are_of_roles_and_contents() -> None:
    one = conversation([("user", "ab"), ("assistant", "c")], "s")
    assert one.id == conversation([("user", "ab"), ("assistant", "c")], "other").id
    assert one.id != conversation([("user", "a"), ("assistant", "bc")], "s").id
    assert one.id != conversation([("system", "ab"), ("assistant", "c")], "s").id
