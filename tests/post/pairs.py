"""Small pairs of answers, and rows of them."""

from __future__ import annotations

from pathlib import Path

from luthier.pack.preferences import PreferenceRows, pack_preferences
from luthier.tasks.preferences import Preference, preference
from tests.small import small_tokenizer

NOUNS = ("river", "violin", "mountain", "sea", "sound", "string")


def pairs(count: int = 12) -> list[Preference]:
    """Questions with a polite and a rude answer of changing lengths."""
    made: list[Preference] = []
    for i in range(count):
        noun = NOUNS[i % len(NOUNS)]
        more = " of the mountains" * (i % 3)
        record = {
            "prompt": f"What is a {noun}? {i}",
            "chosen": f"A {noun} is art{more}.",
            "rejected": f"The sea, the {noun} is not{' so' * (i % 2)}.",
        }
        made.append(preference(record, "test"))
    return made


def packed(directory: Path, count: int = 12, seq_len: int = 120, split: str = "train") -> PreferenceRows:
    """Rows of pairs."""
    pack_preferences(pairs(count), [], small_tokenizer(), 64, seq_len, directory, split)
    return PreferenceRows.open(directory, split)
