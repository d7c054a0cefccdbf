"""Text to train and test tokenizers on: many scripts, numbers, code, white space, and literal special tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from hypothesis import strategies as st

from luthier.config.tokenization import TokenizerSection
from luthier.runs.progress import Progress
from luthier.tokenizer.special import SPECIAL_STRINGS
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer

ENGLISH = [
    "The river rose in the night, and by the morning the lower fields were under water.",
    "She'd said they're late; WE'LL see whether it's the 3rd or the 12,345th time.",
    "A violin has four strings, tuned in fifths; a guitar has six, tuned mostly in fourths.",
    "Water boils at 100 degrees at sea level, and at about 71 degrees on the highest mountain.",
    "The strings of the instrument are tuned, and the tuning of the strings is the work of the player.",
]
SCRIPTS = [
    "Вода кипит при ста градусах, а лёд тает при нуле.",
    "Το βιολί έχει τέσσερις χορδές.",
    "小提琴有四根弦,吉他有六根弦。",
    "バイオリンには弦が四本あります。",
    "바이올린에는 줄이 네 개 있다.",
    "للكمان أربعة أوتار.",
    "לכינור ארבעה מיתרים.",
    "वायलिन में चार तार होते हैं।",
    "ไวโอลินมีสี่สาย",
    "Đàn vĩ cầm có bốn dây, żółć i gęś, 'ſt and ǅ.",
    "🎻🎸 👩‍👩‍👧 family 🇫🇷 flags ½ ² Ⅷ ٣٤٥",
    "def tune(string):\r\n\treturn {'hz': 440.0}  # A4\n\n\n    if x:\n        y += 1  \n ",
    "\ufeffbyte order mark, \x0c form feed, \x1c\x1d separators, \x85 next line, \u3000 wide space, \xa0 hard space",
    "later than Unicode 16: a\u0558b \u088f\U000187f8x\U0001e6c0\U00011de0 12\U00011de1",
    f"literals: {''.join(SPECIAL_STRINGS[:9])} <|user|>",
    " ",
    "\n",
    "   \t  ",
    "",
]
TEXTS = ENGLISH + SCRIPTS

characters = st.one_of(
    st.characters(exclude_categories=("Cs",)),
    st.sampled_from("aebt  '\n\r\t\x0c019.,-ſſdSłйЖ中あ한ا\u0301\u200d🎻\u0558\U00011de0"),
)
strings = st.one_of(
    st.text(characters, max_size=60),
    st.lists(st.sampled_from([*TEXTS, *SPECIAL_STRINGS, "'ll", "'LL", " the", "  ", "\r\n", "12345"]), max_size=4).map("".join),
)


def train(texts: Sequence[str], vocab_size: int = 400, pattern: str = "gpt4", progress: Progress | None = None) -> Tokenizer:
    config = TokenizerSection(vocab_size=vocab_size, pattern=pattern)  # type: ignore[arg-type]
    return train_tokenizer(texts, config, progress or Progress(), None)


@functools.cache
def tokenizer(pattern: str = "gpt4", vocab_size: int = 460) -> Tokenizer:
    """A tokenizer trained on all of `TEXTS`; tests share it, it never changes."""
    return train(ENGLISH * 3 + TEXTS, vocab_size, pattern)
