"""Questions about articles. In: records with `title`, `extract` (or `text`), `description`, `topic`. Out: conversations. Next: build.

Which questions an article gets is drawn by its title, so the set is the same in every run and does not depend on other articles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from luthier.data.rules.clean import clean_text
from luthier.tasks.conversation import Conversation, dialogue, draw
from luthier.tasks.sentences import has_hole, is_sound, split_sentences, tidy
from luthier.tasks.subjects import Subject, find_subject, plural

FIELDS = (("title",), ("extract", "text"))
"""What a record must have; one of each group."""

SHORT, LONG = 300, 600
_ADD_BELOW = 90
_MORE = ("Tell me more.", "Can you tell me more?", "What else?")
_HOLED_TOPICS = frozenset(("Mathematics", "Physical sciences"))
_CLAUSE = re.compile(r"; |, (?:which|who|where|including|such as|as well as|with|while|although) ")
_PLACE = re.compile(
    r"\b(?:city|capital|country|island|river|mountain|lake|town|region|state|sea|desert|municipality|peninsula|volcano|strait)\b",
    re.IGNORECASE,
)
_HISTORY = re.compile(r"^(?:the )?(?:history|economy|geography|culture|politics|demographics|climate) of ", re.IGNORECASE)


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make about two conversations of an article; one without a sound first sentence gives none."""
    title, topic, description = (_text(record, name) for name in ("title", "topic", "description"))
    sentences = _sentences(_text(record, "extract") or _text(record, "text"), topic)
    if title and sentences:
        yield from _about(title, topic, description, sentences, source)


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return " ".join(clean_text(value).replace("\n", "  ").split(" ")).strip() if isinstance(value, str) else ""


def _sentences(extract: str, topic: str) -> list[str]:
    """The sound sentences from the start on; none when the first is not sound."""
    sound: list[str] = []
    for raw in split_sentences(extract.replace("\u00a0", " ")):
        sentence = tidy(raw)
        if not is_sound(sentence) or (topic in _HOLED_TOPICS and has_hole(raw)):
            break
        sound.append(sentence)
    return sound


def _about(title: str, topic: str, description: str, sentences: list[str], source: str) -> Iterator[Conversation]:
    subject = find_subject(title, sentences, topic, description)
    answer, used = _short_answer(sentences)
    asks = subject.asked and answer and not _HISTORY.match(subject.phrase)
    if asks:
        question = _what(subject, title)
        more = _join(sentences[used:], 2, SHORT + 50)
        if more and draw(title, "follow-up") < 0.3:
            yield dialogue(source, question, answer, _pick(_MORE, title, "more"), more)
        else:
            yield dialogue(source, question, answer)
    kind = draw(title, "second")
    phrase = _phrase(description)
    if kind < 0.2 and phrase and asks:
        yield dialogue(source, _in_few_words(subject, title), phrase)
    elif kind < 0.4 and asks and subject.verb == "is" and not subject.person and topic == "Geography" and _PLACE.search(answer):
        yield dialogue(source, f"Where is {subject.phrase}?", answer)
    elif long := _join(sentences, 3, LONG):
        yield dialogue(source, _tell(subject, title), long)


def _pick(choices: tuple[str, ...], key: str, purpose: str) -> str:
    """Choose the first of the choices half of the time, the others evenly otherwise."""
    number = draw(key, purpose)
    return choices[0] if number < 0.5 or len(choices) == 1 else choices[1 + int((number - 0.5) * 2 * (len(choices) - 1))]


def _what(subject: Subject, title: str) -> str:
    word = "Who" if subject.person else "What"
    verb, phrase = subject.verb, subject.phrase
    if subject.single and draw(title, "single") < 0.6:
        verb, phrase = "is", subject.single
    number = draw(title, "what")
    if number < 0.80:
        return f"{word} {verb} {phrase}?"
    if number < 0.90:
        return f"{word} {verb} {phrase}".lower()
    if number < 0.95 and verb == "is":
        return f"{word}'s {phrase}?"
    return f"Can you tell me {word.lower()} {phrase} {verb}?"


def _tell(subject: Subject, title: str) -> str:
    number, phrase = draw(title, "tell"), plural(subject.phrase)
    if number < 0.7:
        return f"Tell me about {phrase}."
    if number < 0.8:
        return f"tell me about {phrase}".lower()
    if number < 0.9 and not subject.person and subject.asked and subject.phrase[:1].islower():
        return f"Explain what {subject.phrase} {subject.verb}."
    return f"What do you know about {phrase}?"


def _in_few_words(subject: Subject, title: str) -> str:
    if draw(title, "few") < 0.5:
        return f"In a few words, {'who' if subject.person else 'what'} {subject.verb} {subject.phrase}?"
    return f"Describe {subject.phrase} in a few words."


def _phrase(description: str) -> str:
    """A description as an answer: "Body of interstellar clouds."."""
    text = tidy(description)
    if not 8 <= len(text) <= 120 or text.count("(") != text.count(")"):
        return ""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _short_answer(sentences: list[str]) -> tuple[str, int]:
    """One sentence, or two where the first says little; with how many sentences it used up."""
    lead = sentences[0]
    if len(lead) > SHORT:
        cuts = [match.start() for match in _CLAUSE.finditer(lead, 100, SHORT) if _is_level(lead[: match.start()])]
        return (lead[: cuts[-1]] + ".", 1) if cuts else ("", 0)
    if len(lead) < _ADD_BELOW and len(sentences) > 1 and len(lead) + 1 + len(sentences[1]) <= SHORT:
        return f"{lead} {sentences[1]}", 2
    return lead, 1


def _is_level(text: str) -> bool:
    return text.count("(") == text.count(")") and text.count('"') % 2 == 0


def _join(sentences: list[str], count: int, limit: int) -> str:
    """Up to `count` whole sentences of at most `limit` characters together."""
    text = ""
    for sentence in sentences[:count]:
        longer = f"{text} {sentence}".strip()
        if len(longer) > limit:
            break
        text = longer
    return text
