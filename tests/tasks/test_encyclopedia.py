from __future__ import annotations

from typing import Any

import pytest

from luthier.tasks.encyclopedia import LONG, conversations
from luthier.tasks.sentences import split_sentences
from luthier.tasks.subjects import find_subject, plural


@pytest.mark.parametrize(
    ("title", "text", "topic", "question"),
    [
        ("Violin", "A violin is a wooden instrument.", "Arts", "What is a violin?"),
        ("Music", "Music is the arrangement of sound. Most people like music.", "Arts", "What is music?"),
        ("Geology", "Geology is a branch of natural science.", "Physical sciences", "What is geology?"),
        ("Sun", "The Sun is the star of the Solar System.", "Physical sciences", "What is the Sun?"),
        ("Paris", "Paris is the capital and largest city of France.", "Geography", "What is Paris?"),
        ("Buddhism", "Buddhism is an Indian religion.", "Uncategorized", "What is Buddhism?"),
        ("Marie Curie", "Maria Skłodowska-Curie was a Polish and French physicist.", "People", "Who was Marie Curie?"),
        ("Ang Lee", "Ang Lee is a Taiwanese filmmaker.", "People", "Who is Ang Lee?"),
        ("Tutankhamun", "Tutankhamun or Tutankhamen, was a pharaoh.", "People", "Who was Tutankhamun?"),
        ("Thor", "Thor is a prominent god in Germanic paganism.", "Philosophy and religion", "Who is Thor?"),
        ("The Beatles", "The Beatles were an English rock band formed in 1960.", "Arts", "Who were the Beatles?"),
        ("The Magic Flute", "The Magic Flute is an opera in two acts.", "Arts", "What is The Magic Flute?"),
        ("Ring (mathematics)", "In mathematics, a ring is an algebraic structure.", "Mathematics", "What is a ring?"),
        ("Anchovy", "Anchovies are small forage fish.", "Biology and health sciences", "What are anchovies?"),
        ("Rosaceae", "Rosaceae is a family of flowering plants.", "Biology and health sciences", "What is Rosaceae?"),
        ("Japanese art", "Japanese art consists of many styles. It is old.", "Arts", "What is Japanese art?"),
        ("Time travel", "Time travel is the concept of movement in time.", "Physical sciences", "What is time travel?"),
        ("Thai language", "Thai is a Tai language spoken in Thailand.", "Society and social sciences", "What is the Thai language?"),
        ("Salvador, Bahia", "Salvador is a Brazilian municipality.", "Geography", "What is Salvador?"),
        ("Roman Empire", "The Roman Empire was the state ruled by the Romans.", "History", "What was the Roman Empire?"),
        ("NASA", "NASA, which is known to all, is an agency.", "Technology", "What is NASA?"),
    ],
)
def test_questions_name_things_as_people_do(title: str, text: str, topic: str, question: str) -> None:
    subject = find_subject(title, split_sentences(text), topic, "")
    assert f"{'Who' if subject.person else 'What'} {subject.verb} {subject.phrase}?" == question
    assert subject.asked


@pytest.mark.parametrize(
    ("phrase", "many"),
    [("a trial", "trials"), ("a monarchy", "monarchies"), ("an ash", "ashes"), ("the Sun", "the Sun"), ("a foot", "a foot")],
)
def test_plurals(phrase: str, many: str) -> None:
    assert plural(phrase) == many


def _articles(count: int) -> list[dict[str, Any]]:
    return [_article(f"Thing {chr(65 + index % 26)}{index}", index) for index in range(count)]


def _article(title: str, index: int) -> dict[str, Any]:
    extract = f"{title} is the thing with number {index}. It is known for its number. It has friends, too."
    return {"title": title, "extract": extract, "description": "Numbered thing in a test", "topic": "Technology"}


def test_articles_give_about_two_conversations_of_several_kinds() -> None:
    made = [one for article in _articles(300) for one in conversations(article, "wiki")]
    assert 500 < len(made) <= 600
    firsts = {conversation.messages[0].content.split()[0] for conversation in made}
    assert {"What", "Tell", "Describe"} <= firsts
    assert 40 < sum(len(conversation.messages) == 4 for conversation in made) < 150
    for conversation in made:
        assert [message.role for message in conversation.messages] == ["user", "assistant"] * (len(conversation.messages) // 2)
        assert all(0 < len(message.content) <= LONG for message in conversation.messages)
    assert len({conversation.id for conversation in made}) == len(made)


def test_answers_come_from_the_article() -> None:
    articles = _articles(100)
    for conversation in (one for article in articles for one in conversations(article, "wiki")):
        extract = articles[_number(conversation)]["extract"]
        for message in conversation.messages[1::2]:
            assert message.content == "Numbered thing in a test." or message.content in extract


def _number(conversation: Any) -> int:
    digits = "".join(character for character in conversation.messages[0].content if character.isdigit())
    return int(digits)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"title": "Only"},
        {"title": "Broken", "extract": "Broken (is a thing."},
        {"title": "Lower", "extract": "and so it goes on and on."},
        {"title": 7, "extract": ["no"]},
        {"title": "Holes", "extract": "Holes are integers  with  such that .", "topic": "Mathematics"},
    ],
)
def test_articles_without_a_sound_first_sentence_give_none(record: dict[str, Any]) -> None:
    assert list(conversations(record, "wiki")) == []


def test_a_long_first_sentence_is_cut_at_a_clause() -> None:
    lead = "Music is the arrangement of sound to create some combination of form, harmony, melody and rhythm and many more things"
    record = {"title": "Music", "extract": f"{lead}, which people everywhere have always done {'again and ' * 30}again.", "topic": "Arts"}
    answers = [message.content for one in conversations(record, "wiki") for message in one.messages if message.role == "assistant"]
    assert f"{lead}." in answers
