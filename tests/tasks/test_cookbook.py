from __future__ import annotations

from typing import Any

import pytest

from luthier.tasks.cookbook import LONGEST, conversations


def _recipe(title: str = "Apple Pie II", steps: list[str] | None = None, ingredients: list[str] | None = None) -> dict[str, Any]:
    return {
        "title": title,
        "ingredients": ingredients or ["2 apples", "&frac12; cup ''butter''"],
        "steps": steps or ["Mix all.<ref name='x' />", "Bake it"],
    }


def test_a_short_recipe_is_told_whole() -> None:
    question, answer = next(conversations(_recipe("Bean Soup (Vegetarian)", ingredients=["1 can beans", "water"]), "book")).messages
    assert question.content.rstrip("?").lower().endswith("bean soup")
    assert answer.content == "You need: 1 can beans; water.\n1. Mix all.\n2. Bake it."


def test_markup_is_taken_out() -> None:
    answer = next(conversations(_recipe(), "book")).messages[1].content
    assert answer == "You need: 2 apples; ½ cup butter.\n1. Mix all.\n2. Bake it."


@pytest.mark.parametrize(
    ("title", "dish"),
    [
        ("Apple Pie II", "apple pie"),
        ("Agidi (Nigerian Swallow)", "Agidi"),
        ("Nigerian Fried Rice", "Nigerian fried rice"),
        ("Cape Malay Butter Chicken", "Cape Malay Butter Chicken"),
    ],
)
def test_dishes_are_named_naturally(title: str, dish: str) -> None:
    questions = [one.messages[0].content for one in conversations(_recipe(title), "book")]
    assert all(dish.lower() in question.lower() for question in questions)
    assert any(dish in question for question in questions) or all(question.islower() for question in questions)


def test_a_long_recipe_takes_two_questions_and_a_very_long_one_only_its_ingredients() -> None:
    long = next(conversations(_recipe(steps=["Stir. " * 20] * 5, ingredients=["1 cup of something"] * 10), "book"))
    assert [message.role for message in long.messages] == ["user", "assistant"] * 2
    assert long.messages[2].content == "How do I make it?"
    (endless,) = conversations(_recipe(steps=["Stir. " * 200]), "book")
    assert len(endless.messages) == 2
    assert endless.messages[1].content.startswith("You need: ")
    for one in (long, endless):
        assert all(len(message.content) <= LONGEST for message in one.messages)


@pytest.mark.parametrize("record", [{}, {"title": "X"}, _recipe() | {"steps": []}, _recipe() | {"ingredients": [3, None, " "]}])
def test_wrong_recipes_give_none(record: dict[str, Any]) -> None:
    assert list(conversations(record, "book")) == []
