"""Who did something, where, and what somebody did. In: records with `text`. Out: conversations about passages of them. Next: build.

Questions are made of plain sentences by rule, without a parser: a subject that opens the sentence, a verb in the past, the rest. Their
answers stand in the passage. After Heilman and Smith 2010, "Good Question! Statistical Ranking for Question Generation".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from luthier.tasks import fields
from luthier.tasks.conversation import Conversation, about, draw
from luthier.tasks.sentences import split_sentences, word_set

FIELDS = (("text", "extract"),)
"""What a record must have; one of each group."""

SHORTEST, LONGEST = 300, 900
"""Characters in a passage, to which its last sentence may add; how long each is depends on its first."""
PASSAGES, QUESTIONS = 12, 6
"""The most of one record, and of one passage."""

_PEOPLE = word_set(
    """
    king queen prince princess man woman dad mom mum headmaster boy girl child children mother father brother sister son daughter wife
    husband grandmother grandfather grandma grandpa uncle aunt friend friends neighbour teacher farmer fisherman hunter miller tailor
    soldier witch giant fairy dwarf old young people men women parents family fox wolf bear cat dog bird mouse rabbit frog lion tiger
    monkey elephant hen duck cow horse donkey goat pig owl crow snake turtle bee ant butterfly squirrel spider crocodile hyena hare rat
    doctor nurse driver
    """
)
_PAST = (
    "was|were|had|went|came|said|took|saw|ran|ate|gave|got|made|found|told|thought|knew|felt|left|put|sat|stood|fell|heard|held|kept|let|lost"
    "|met|read|rode|sang|sent|shook|slept|spoke|swam|taught|threw|tore|woke|wore|won|wrote|began|blew|bought|brought|built|caught|climbed|drank"
    "|drew|drove|flew|forgot|fought|grew|hid|hit|laid|led|lit|rose|sold|shone|sank|swung|wanted|(?!named )[a-z]{2,}ed"
)
_NOT_NAMES = (
    "He|She|It|They|We|You|I|There|This|That|These|Those|Here|Then|When|What|Who|Where|Why|How|But|And|So|Nor|Not|One"
    "|Suddenly|Soon|If|As|All"
)
_SENTENCE = re.compile(
    r"(?P<subject>(?:The|A|An|His|Her|Their|My) (?:[a-z-]+ ){0,2}?[a-z-]+"
    rf"|(?!(?:{_NOT_NAMES})\b)[A-Z][a-z]+(?: [A-Z][a-z]+)?)"
    rf" (?P<verb>{_PAST}) (?P<rest>[^.!?:;\"“”]+)[.!]"
)
_PLACE = re.compile(r"(?:in|at|on|under|near|behind|inside|beside|next to) (?:the|a|an|his|her|their) [a-z ]+")
_TENSELESS = word_set("was were had")


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make a conversation of each passage that has such sentences; a text without any gives none.

    Raises: Unfit
    """
    for passage in _passages(fields.text(record, FIELDS[0], "text")):
        asked = sorted(dict(_questions(passage)).items(), key=lambda one: draw(one[0], "order"))[:QUESTIONS]
        if asked:
            yield about(source, " ".join(passage), asked)


def _passages(text: str) -> Iterator[list[str]]:
    """The first pieces of a text: neighbouring sentences, across paragraphs."""
    passage: list[str] = []
    made = 0
    for sentence in (" ".join(one.split()) for line in text.split("\n") for one in split_sentences(line)):
        passage.append(sentence)
        if sum(map(len, passage)) >= SHORTEST + draw(passage[0], "length") * (LONGEST - SHORTEST):
            yield passage
            passage, made = [], made + 1
        if made == PASSAGES:
            return
    if sum(map(len, passage)) >= SHORTEST:
        yield passage


def _questions(passage: list[str]) -> Iterator[tuple[str, str]]:
    """All that can be asked: who, where, and what somebody did whom no other sentence begins with."""
    told = [found.group("subject", "verb", "rest") for one in passage if (found := _SENTENCE.fullmatch(one))]
    begins = Counter(subject for subject, _, _ in told)
    for subject, verb, untrimmed in told:
        named, rest = _inside(subject), untrimmed.strip()
        somebody = {part for word in subject.lower().split() for part in (word, word.removesuffix("s"))} & _PEOPLE
        who = "Who" if somebody or not _determined(subject) else "What"
        yield f"{who} {'was' if verb == 'were' else verb} {rest}?", named
        if verb in ("was", "were") and _PLACE.fullmatch(rest):
            yield f"Where {verb} {named}?", rest
        elif verb not in _TENSELESS and who == "Who" and begins[subject] == 1:
            yield f"What did {named} do?", f"{verb} {rest}"


def _determined(subject: str) -> bool:
    return subject.split()[0] in ("The", "A", "An", "His", "Her", "Their", "My")


def _inside(subject: str) -> str:
    """A subject as it stands inside a sentence."""
    return subject[0].lower() + subject[1:] if _determined(subject) else subject
