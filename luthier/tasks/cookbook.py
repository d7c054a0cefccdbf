"""Questions about recipes. In: records with `title`, `ingredients`, `steps`. Out: conversations. Next: build.

A recipe that fits into one answer is asked for whole; of a longer one the ingredients come first and the steps on a second question.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from luthier.data.rules.clean import clean_text
from luthier.tasks.conversation import Conversation, dialogue, draw
from luthier.tasks.sentences import word_set

FIELDS = (("title",), ("ingredients",), ("steps",))
"""What a record must have; one of each group."""

LONGEST = 700
_MARKUP = re.compile(
    r"<ref[^>]*/>|<ref[^>]*>.*?</ref>|<[^>]{0,80}>|\{\{.*?(?:\}\}|$)|\[\[(?:[^\]|]*\|)?([^\]|]*)\]\]|'{2,5}|^thumb(?:\|[^|]*\|)?|thumb\|.*$"
)
_NUMERAL = re.compile(r" (?:I{1,3}|IV|V|VI{1,3})$")
_DISHES = word_set(
    """
    soup stew cake cakes pie bread sauce salad cookies cookie rice chicken beef pork lamb fish shrimp curry roast roasted baked fried
    grilled stuffed steamed boiled braised smoked spiced spicy sweet sour hot cold white black red green yellow brown golden with and
    of in on the a for pudding porridge dip pancakes pancake waffles fritters pasta noodles noodle dressing punch tea coffee milk
    shake smoothie juice drink jam jelly muffins biscuits scones crisp crumble tart cheesecake brownies fudge frosting icing cream ice
    chocolate vanilla lemon orange apple banana potato potatoes tomato bean beans vegetable vegetables egg eggs cheese butter garlic
    onion mushroom mushrooms dumplings dumpling pizza burger sandwich omelette casserole chili salsa pickles chutney relish marinade
    rub broth stock gravy glaze syrup chips wraps rolls buns balls meatballs bars squares slices pot pan easy quick simple homemade
    basic fresh creamy crispy peanut coconut pineapple pumpkin
    """
)
_NATIONS = re.compile(r"[A-Z]\w*(?:[aei]an|ese|ish|ch)s?|Thai|Greek|Swiss|Cajun|Creole|German|New|York|Texas")
_QUESTIONS = ("How do I make {}?", "Can you give me a recipe for {}?", "how do i make {}")


def conversations(record: Mapping[str, Any], source: str) -> Iterator[Conversation]:
    """Make one or two conversations of a recipe; one without ingredients or steps gives none."""
    title = record.get("title")
    ingredients, steps = _items(record.get("ingredients")), _items(record.get("steps"))
    if isinstance(title, str) and title.strip() and ingredients and steps:
        yield from _about(title, ingredients, steps, source)


def _items(value: Any) -> list[str]:
    """Lines of a list, freed of wiki markup."""
    values: list[Any] = value.split("\n") if isinstance(value, str) else cast(list[Any], value) if isinstance(value, list) else []
    return [clean for item in values if isinstance(item, str) and (clean := _clean(item))]


def _clean(text: str) -> str:
    plain = _MARKUP.sub(lambda match: match.group(1) or "", html.unescape(clean_text(text)))
    plain = re.sub(r"\(\s*\)", "", " ".join(plain.split()))
    return re.sub(r"\s+([,.;:)])", r"\1", plain).strip(" ;")


def _about(title: str, ingredients: list[str], steps: list[str], source: str) -> Iterator[Conversation]:
    dish = _dish(title, " ".join(ingredients + steps))
    need = f"You need: {'; '.join(item.rstrip('.') for item in ingredients)}."
    numbered = [f"{number}. {step if step[-1] in '.!?)' else step + '.'}" for number, step in enumerate(steps, 1)]
    how = "\n".join(numbered) if len(steps) > 1 else numbered[0][3:]
    whole = f"{need}\n{how}"
    broken = any(step.endswith(":") for step in steps)
    needs = f"What do I need for {dish}?" if draw(title, "need") < 0.8 else f"What are the ingredients of {dish}?"
    number = draw(title, "question")
    ask = _QUESTIONS[0 if number < 0.7 else 1 if number < 0.9 else 2].format(dish)
    if number >= 0.9:
        ask = ask.lower()
    if len(whole) <= LONGEST and not broken:
        yield dialogue(source, ask, whole)
        if draw(title, "second") < 0.4:
            yield dialogue(source, needs, need)
    elif len(need) <= LONGEST and len(how) <= LONGEST and not broken:
        yield dialogue(source, needs, need, "How do I make it?", how)
    elif len(need) <= LONGEST:
        yield dialogue(source, needs, need)


def _dish(title: str, text: str) -> str:
    """Name a dish inside a question: in small letters where all its words are known as common ones."""
    name = _NUMERAL.sub("", re.sub(r"\s*\([^)]*\)", "", " ".join(title.split()))).strip() or title
    common = set(re.findall(r"\b[a-zéèêñçà-]+\b", text)) | _DISHES
    words = [word.lower() if word.lower() in common else word if _NATIONS.fullmatch(word) else "" for word in name.split()]
    return " ".join(words) if all(words) else name
