"""Instructions whose following can be checked. In: a text, and constraints by name. Out: the share that is met. Next: judge.

The names and their definitions are IFEval's. Two of them rest on outside tools there: sentences are cut by our own rules here, and the
language is our detector's.
Source: Zhou et al. 2023, arXiv:2311.07911, table 1.
"""

from __future__ import annotations

import inspect
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from luthier.data.rules.languages import languages_of
from luthier.errors import ConfigError
from luthier.tasks.sentences import split_sentences

_FENCE = re.compile(r"^```(?:json)?\s*|\s*```$", re.IGNORECASE)
_CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_MOST_SPECIAL = 100_000
_RELATIONS: Mapping[str, Callable[[int, int], bool]] = {"at least": operator.ge, "less than": operator.lt}


def _related(count: int, relation: str, wanted: int) -> bool:
    return _RELATIONS[relation](count, wanted)


def _keywords(text: str, keywords: Sequence[str]) -> bool:
    lowered = text.casefold()
    return all(word.casefold() in lowered for word in keywords)


def _keyword_frequency(text: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    return _related(text.casefold().count(keyword.strip().casefold()), relation, frequency)


def _forbidden(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    return _related(text.lower().count(letter.lower()), let_relation, let_frequency)


def _language(text: str, language: str) -> bool:
    return languages_of([text])[0][0] == language.split("-")[0]


def _sentences(text: str, num_sentences: int, relation: str = "at least") -> bool:
    sentences = [one for line in text.split("\n") if line.strip() for one in split_sentences(line)]
    return _related(len(sentences), relation, num_sentences)


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    inner = parts[(not parts[0]) : len(parts) - (len(parts) > 1 and not parts[-1])]
    return all(inner) and len(inner) == num_paragraphs


def _words(text: str, num_words: int, relation: str = "at least") -> bool:
    return _related(len(re.findall(r"\w+", text)), relation, num_words)


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= len(parts):
        return False
    word = re.match(r"[\w-]*", parts[nth_paragraph - 1].lstrip("'\"*_#([ "))
    return word is not None and word[0].lower() == first_word.lower()


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    letters = [re.escape(letter) for letter in postscript_marker.lower().replace(".", " ").split()]
    return re.search(r"\.\s?".join(letters), text.lower()) is not None


def _bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^[ \t]*(?:\*(?!\*)|-)[^\n]+$", text, re.MULTILINE)) == num_bullets


def _one_of_three(text: str) -> bool:
    return any(choice in text for choice in _CHOICES)


def _highlights(text: str, num_highlights: int) -> bool:
    single = [part for part in re.findall(r"\*([^\n*]*)\*", text) if part.strip()]
    double = [part for part in re.findall(r"\*\*([^\n*]*)\*\*", text) if part.strip()]
    return len(single) + len(double) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\b{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json(text: str) -> bool:
    try:
        json.loads(_FENCE.sub("", text.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(part.strip("<> ") for part in re.findall(r"<<([^\n>]*)>>", text))


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    inner = parts[(not parts[0]) : len(parts) - (len(parts) > 1 and not parts[-1])]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def _repeats(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(text: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    return _related(sum(word.isupper() for word in re.findall(r"\w+(?:-\w+)*", text)), capital_relation, capital_frequency)


def _upper(text: str) -> bool:
    return text.isupper() and _language(text.lower(), "en")


def _lower(text: str) -> bool:
    return text.islower() and _language(text, "en")


def _no_comma(text: str) -> bool:
    return "," not in text


def _quoted(text: str) -> bool:
    plain = text.strip()
    return len(plain) > 1 and plain[0] == plain[-1] == '"'


CONSTRAINTS: Mapping[str, Callable[..., bool]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _one_of_three,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _upper,
    "change_case:english_lowercase": _lower,
    "punctuation:no_comma": _no_comma,
    "startend:quotation": _quoted,
}


def misfit(name: object, settings: object) -> str | None:
    """Say in a word why a constraint could never be checked; nothing where it can be."""
    if not isinstance(name, str) or name not in CONSTRAINTS:
        return "unknown_constraint"
    if not isinstance(settings, dict):
        return "wrong_settings"
    signature, given = inspect.signature(CONSTRAINTS[name]), cast(dict[str, object], settings)
    try:
        signature.bind("", **given)
    except TypeError:
        return "wrong_settings"
    if not all(_is(value, signature.parameters[setting].annotation) for setting, value in given.items()):
        return "wrong_settings"
    return None if all(value in _RELATIONS for setting, value in given.items() if setting.endswith("relation")) else "unknown_relation"


def whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with whole numbers as such: data sets write them as floats, too."""
    return {name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in settings.items()}


def checked(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a constraint, with whole numbers as such.

    Raises: ConfigError when they are not what it takes
    """
    given = whole(settings)
    if wrong := misfit(name, given):
        raise ConfigError(f"rules: {name} has {wrong}: {given}", fix=f"it takes {inspect.signature(CONSTRAINTS[name])}, the text apart")
    return given


def _is(value: object, annotation: str) -> bool:
    """Whether a setting has its kind."""
    if annotation == "Sequence[str]":
        return isinstance(value, list) and all(isinstance(one, str) for one in cast(list[object], value))
    return isinstance(value, str) if annotation == "str" else isinstance(value, int) and not isinstance(value, bool)


def met(response: str, answer: str) -> list[bool]:
    """Say for each constraint whether a text meets it; an empty text meets none.

    `answer` is a JSON list of pairs: a name of `CONSTRAINTS` and its settings.
    Raises: KeyError for a name or a relation that is unknown; MissingExtraError where a language is to be told and no detector is installed
    """
    wanted: list[tuple[str, dict[str, Any]]] = json.loads(answer)
    said = response[:_MOST_SPECIAL]
    return [bool(said.strip()) and CONSTRAINTS[name](said, **settings) for name, settings in wanted]


def constraints(response: str, answer: str) -> float:
    """Grade the share of constraints that are met."""
    found = met(response, answer)
    return sum(found) / len(found) if found else 0.0


def all_constraints(response: str, answer: str) -> float:
    """Grade 1 when all constraints are met."""
    found = met(response, answer)
    return float(bool(found) and all(found))
