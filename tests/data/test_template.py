from __future__ import annotations

import pytest

from luthier.data.template import template
from luthier.errors import DataError


def test_fields_are_filled_in() -> None:
    render = template("{title}\n\n{steps} {{n={n}}}")
    assert render({"title": "T", "steps": ["a", "b"], "n": 3}) == "T\n\na\nb {n=3}"
    assert render({"title": "T", "steps": None, "n": 3}) is None
    assert render({"title": "T"}) is None


def test_the_default_is_text_then_content() -> None:
    render = template(None)
    assert render({"text": "t", "content": "c"}) == "t"
    assert render({"content": "c"}) == "c"
    assert render({"body": "b", "text": 3}) is None


def test_a_bare_name_is_a_field() -> None:
    assert template("body")({"body": "b"}) == "b"


@pytest.mark.parametrize("text", ["{a.__class__}", "{a[0]}", "{}", "{a!r}", "{a:>10}", "{a", "a}"])
def test_anything_but_plain_fields_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="not a template"):
        template(text)
