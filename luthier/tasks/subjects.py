"""How to ask about a thing. In: an article's title and sentences. Out: its name inside a question, and the verb. Next: encyclopedia.

A title like `Violin` is asked for as "a violin", `Music` as "music", `Sun` as "the Sun": the article's own first sentence says which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from luthier.tasks.sentences import word_set

_VERB = re.compile(r"\b(is|are|was|were)\b")
_RELATIVE = re.compile(r",? (?:which|who|that|where|when|whose) [^,]*(?:,|$)")
_FRAME = re.compile(r"^(?:(?:In|Within|According to|Under|For|As|By|At|On) [^,.]{2,80},|In [a-z ]{3,40}?(?= (?:a|an|the) )) ")
_WORDS = r"(?: (?!(?:of|in|to|that|which|for|by|with|from|as)\b)[\w'’-]+){0,4}"
_IS_A = rf"\b(?:is|are|was|were) (?:also )?(?:a|an|the|one)\b(?: of the)?{_WORDS} "
_PEOPLE = (
    "god|goddess|deity|prophet|saint|king|queen|emperor|empress|pharaoh|band|duo|trio|supergroup|superhero"
    "|fictional character|(?:mythical|mythological|legendary|biblical|religious) (?:figure|hero|heroine)|philosopher|writer"
    "|poet|novelist|composer|painter|singer|scientist|physicist|chemist|mathematician|inventor|politician|theologian|leader"
    "|president|artist|polymath|physician|playwright"
)
_PERSON = re.compile(rf"{_IS_A}(?:{_PEOPLE})s?\b")
_LIFE = re.compile(r"\((?:born |c\. |d\. )?\d{2,4}\s*(?:[–-]|\)|BC)")
_HE = re.compile(r"\b(?:he|she|his|her|him)\b", re.IGNORECASE)
_IT = re.compile(r"\b(?:it|its|they|their)\b", re.IGNORECASE)
_PLACES = (
    "city|capital|country|river|island|lake|sea|mountain|town|state|province|region|continent|moon|planet|asteroid"
    "|constellation|company|corporation|brand|god|goddess|deity|dynasty|empire|kingdom|religion|faith|denomination|novel"
    "|film|album|epic|text|book|play|poem|opera|painting|magazine|newspaper|series|video game|game console"
    "|programming language|operating system|website|festival|holiday|month|language|script|ethnic group|people|peoples"
    "|organi[sz]ation|space station|spacecraft|satellite|telescope|monument|temple|palace|cathedral|museum|building|tower"
    "|bridge|castle|mosque|shrine|fortress|university|star|service"
)
_TAXA = "genus|genera|family|families|order|suborder|infraorder|superorder|class|subclass|clade|tribe|phylum|subphylum|kingdom|species"
_NAMED_KIND = re.compile(rf"{_IS_A}(?:{_PLACES})\b")
_NAMED_TAXON = re.compile(rf"{_IS_A}(?:{_TAXA})\b")
_NAMED_DESCRIPTION = re.compile(rf"^(?:[\w'’-]+ ){{0,4}}(?:{_PLACES})\b", re.IGNORECASE)
_LATIN_END = re.compile(r"(?:idae|aceae|formes|ptera|poda|oidea|ales|mycetes|phyta|zoa)$")
_COMMON_END = re.compile(
    r"(?:logy|ism|ics|ity|tion|sion|ment|ness|ing|ure|ence|ance|osis|itis|graphy|nomy|metry|sophy|craft|ship|hood|ware|work|cide|phobia|ium|gen"
    r"|ery|esis|ine|ide|gram|scope|meter|cycle|stone|fish|bird|berry|worm|weed|grass|land|er|or)s?$"
)
_NATION_END = re.compile(r"(?:'s|s'|ese|[ei]an)$")
_NOT_NATIONS = word_set(
    """
    median vegetarian civilian guardian pedestrian ocean circadian mean people's women's men's children's
    """
)
_NATIONS = word_set(
    """
    greek french dutch roman german arab islamic jewish catholic norman swiss thai czech welsh hindu christian latin norse viking
    aztec inca maya boolean african american european asian ottoman anglo-saxon protestant orthodox western eastern celtic slavic
    germanic gothic baltic polish nordic arctic antarctic buddhist sikh vedic marxist hebrew sumerian olympic tang ming qing han
    song zulu tamil turkic mongol mexican korean english british irish scottish spanish turkish swedish danish finnish arabic
    hispanic hellenistic semitic byzantine renaissance
    """
)
_NAMED_ISMS = word_set(
    """
    Buddhism Hinduism Judaism Sikhism Jainism Taoism Confucianism Zoroastrianism Shinto Islam Christianity Catholicism Protestantism
    Lutheranism Methodism Calvinism Anglicanism Marxism Leninism Maoism Stalinism Sufism Darwinism Easter Christmas Nowruz Ramadan
    Hadith Sharia
    """
)
_NAMED_LAST = word_set("language languages people peoples dynasty theorem effect equation conjecture")
_THING_OF = re.compile(
    r"^(?:History|Economy|Geography|Culture|Architecture|Politics|Demographics|Climate|Cinema|Music|Fall|Discovery|Origin|Evolution"
    r"|Military history|Timeline|Languages|Mythologies|Cuisine|Literature|Development|Health effects|Religion|Economic history) (?:of|in) "
)
_NO_PLURAL = re.compile(r" (?:of|in|for|with|and|or|to) |(?:man|men|foot|tooth|mouse|goose|child|[sxz]|um|fish|sheep)$")
_LIVING = re.compile(r"\b(?:species|plant|fruit|animal|bird|fish|mammal|insect|tree|breed|vegetable|rodent|reptile)\b")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a question calls its thing. `asked` says whether "What is ...?" is answered by the first sentence."""

    phrase: str
    verb: str
    person: bool
    asked: bool
    single: str | None = None
    """Another way to ask: "a woodpecker" where the article says "woodpeckers" or "the woodpecker"."""


def find_subject(title: str, sentences: list[str], topic: str, description: str) -> Subject:
    """Find how an article's first sentence names its title."""
    lead, rest = sentences[0], " ".join(sentences)
    base = re.sub(r"\s*\([^)]*\)$", "", title).strip() or title
    if "," in base and base.lower() not in lead.lower() and base.split(",")[0].lower() in lead.lower():
        base = base.split(",")[0]
    person = topic == "People" or _is_person(lead, rest, topic, description)
    frame = _FRAME.match(lead)
    body = lead[frame.end() :] if frame else lead
    found = re.match(rf"(?:(?P<article>the|a|an)\s+)?[\"“']?(?P<name>{_forms(base)})(?![\w-])", body, re.IGNORECASE)
    if not found:
        return _elsewhere(base, lead, rest, person, topic, description)
    name, article = found["name"], (found["article"] or "").lower()
    plural = name.lower() != base.lower()
    person = person and (topic == "People" or article not in ("a", "an"))
    verb = _verb(body[found.end() :]) or ("are" if plural else "was" if topic == "History" else "is")
    if name.lower().startswith("the ") and not article:
        phrase = ("the " if person else "The ") + name[4:]
    elif article:
        phrase = f"{article} {name}"
    else:
        phrase = name if frame else _as_inside(name, rest, topic, person, description)
    return Subject(phrase, verb, person, True, _single(base, phrase, verb, plural, body))


def _is_person(lead: str, rest: str, topic: str, description: str) -> bool:
    """Say whether an article of another topic than people is about one, or a god, or a band."""
    named = bool(_PERSON.search(lead[:160]))
    if named and topic in ("Philosophy and religion", "Arts"):
        return True
    return (named or (topic != "History" and bool(_LIFE.search(description)))) and len(_HE.findall(rest)) > len(_IT.findall(rest))


def _forms(base: str) -> str:
    """A pattern of a title, or its plural."""
    plural = f"|{re.escape(base[:-1])}ies" if base.endswith("y") else ""
    return f"{re.escape(base)}(?:e?s)?{plural}"


def _verb(text: str) -> str | None:
    flat = re.sub(r"\([^()]*\)", "", text)
    found = _VERB.search(_RELATIVE.sub(",", flat)) or _VERB.search(flat)
    return found.group(1) if found else None


def _elsewhere(base: str, lead: str, rest: str, person: bool, topic: str, description: str) -> Subject:
    """Name a thing whose first sentence begins with something else."""
    verb = _verb(lead)
    if person:
        return Subject(base, verb or "was", True, verb is not None)
    inside = re.search(rf"(?:\b(the|a|an) )?(?<![\w-])({_forms(base)})(?![\w-])", lead, re.IGNORECASE)
    if inside and verb:
        name = inside.group(2)
        phrase = f"{inside.group(1).lower()} {name}" if inside.group(1) else name
        return Subject(phrase, "are" if name.lower() != base.lower() else "is", False, True)
    first, *others = base.split()
    last = others[-1].lower() if others else ""
    opening = re.match(rf"The {re.escape(first)}\b", lead)
    phrase = _as_inside(base, rest, topic, person, description)
    if phrase.startswith("the "):
        return Subject(phrase, verb or "is", False, False)
    if last == "language" or opening or re.search(rf"\bthe {re.escape(base)}\b", rest, re.IGNORECASE):
        phrase = f"the {phrase}"
    return Subject(phrase, verb or "is", False, bool(verb) and (last == "language" or opening is not None))


def _single(base: str, phrase: str, verb: str, plural: bool, body: str) -> str | None:
    """The singular with an article, as people ask: for plurals, and for living things that are named with "the"."""
    living = phrase.startswith("the ") and verb == "is" and phrase[4:5].islower() and " of " not in phrase and _LIVING.search(body[:200])
    if not living and not (plural and verb == "are" and not phrase.startswith("the ")):
        return None
    word = phrase[4:] if living else base[:1].lower() + base[1:] if phrase[:1].islower() else base
    return f"{'an' if word[:1].lower() in 'aeiou' and not re.match(r'(?:uni|eu|one|us)', word.lower()) else 'a'} {word}"


def _as_inside(name: str, rest: str, topic: str, person: bool, description: str) -> str:
    """Write a name that begins a sentence as it would stand inside one."""
    lowered = name[:1].lower() + name[1:]
    if person:
        return name
    if _THING_OF.match(name):
        return f"the {lowered}"
    if not name[:1].isupper() or any(character.isupper() or character.isdigit() for character in name[1:]):
        return name
    if re.search(rf"(?<![\w-]){re.escape(lowered)}", rest):
        return lowered
    if re.search(rf"[a-z,;] {re.escape(name)}(?![\w-])", rest):
        return name
    first, *others = name.split()
    if others:
        word = first.lower()
        seen = re.search(rf"[a-z,;] {re.escape(first)}(?![\w-])", rest)
        if topic == "Biology and health sciences" and name[-1] != "s" and _NAMED_TAXON.search(rest[:200]):
            return name
        named = word in _NATIONS or (_NATION_END.search(word) and word not in _NOT_NATIONS)
        return name if seen or named or others[-1].lower() in _NAMED_LAST else lowered
    if topic in ("People", "Geography", "History") or name in _NAMED_ISMS or _LATIN_END.search(name):
        return name
    if topic == "Biology and health sciences":
        return name if _NAMED_TAXON.search(rest[:200]) and not (name.endswith("s") and re.match(rf"{name} .*?are", rest)) else lowered
    if _NAMED_KIND.search(rest[:200]) or _NAMED_DESCRIPTION.search(description):
        return name
    return name if topic == "Philosophy and religion" and not _COMMON_END.search(name) else lowered


def plural(phrase: str) -> str:
    """Turn "a trial" into "trials", as one asks to be told about a kind of thing; anything else stays."""
    article, _, word = phrase.partition(" ")
    if article not in ("a", "an") or _NO_PLURAL.search(word):
        return phrase
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}{'es' if re.search(r'(?:[sxz]|ch|sh)$', word) else 's'}"
