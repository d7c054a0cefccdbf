"""Questions whose answers stand in their passage."""

from __future__ import annotations

import pytest

from luthier.tasks.auto import BY_NAME, conversations
from luthier.tasks.conversation import Unfit
from luthier.tasks.spans import LONGEST, PASSAGES, QUESTIONS, SHORTEST

SENTENCES = [
    "The miller had three sons and one grey donkey.",
    "When he died, the eldest son took the mill by the river.",
    "The second son led the old donkey away over the hill.",
    "Nothing but the cat was left for the youngest of them.",
    "He sat down on a stone beside the road and sighed loudly.",
    "The cat asked him for a pair of good leather boots.",
]
RECORD = {"text": " ".join(SENTENCES) + "\n" + " ".join(reversed(SENTENCES)) + "\n" + " ".join(SENTENCES[1:])}


def test_each_answer_is_a_piece_of_the_passage_behind_what_the_question_says() -> None:
    found = list(BY_NAME["spans"].conversations(RECORD, "tales"))
    assert 0 < len(found) <= PASSAGES
    kinds = set[str]()
    for one in found:
        passage, _, first = one.messages[0].content.partition("\n\n")
        assert SHORTEST <= len(passage) <= LONGEST + len(SENTENCES)
        questions, answers = [first, *(m.content for m in one.messages[2::2])], [m.content for m in one.messages[1::2]]
        assert 1 <= len(questions) == len(answers) <= QUESTIONS
        for question, answer in zip(questions, answers, strict=True):
            if question.startswith("Fill in the blank: "):
                kinds.add("blank")
                assert question.removeprefix("Fill in the blank: ").replace("____", answer) in passage
            else:
                kinds.add("follows")
                assert f"{question.removeprefix('What follows ').strip('?')[1:-1]} {answer}" in passage
    assert kinds == {"blank", "follows"}
    assert list(BY_NAME["spans"].conversations(RECORD, "tales")) == found


def test_a_text_without_whole_sentences_gives_none() -> None:
    assert list(BY_NAME["spans"].conversations({"text": "One line."}, "tales")) == []
    with pytest.raises(Unfit, match="empty_text"):
        list(BY_NAME["spans"].conversations({"text": " "}, "tales"))


def test_a_bare_text_is_no_conversation_by_itself() -> None:
    with pytest.raises(Unfit, match="unknown_fields"):
        list(conversations(RECORD, "tales"))
