"""Generated texts with known similarity, and part files of them."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luthier.data.near.parts import Part
from luthier.data.near.words import shingles
from luthier.data.parquet import RowFile, Texts
from luthier.data.rules.clean import document_id, duplicate_key

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def as_texts(texts: Sequence[str]) -> Texts:
    encoded = [text.encode("utf-8") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return Texts(np.frombuffer(b"".join(encoded), np.uint8), ends[:-1], ends[1:])


def word(chance: random.Random) -> str:
    return "".join(chance.choices(LETTERS, k=chance.randint(2, 9)))


def story(chance: random.Random, words: int) -> str:
    return " ".join(word(chance) for _ in range(words))


def changed(text: str, chance: random.Random, count: int) -> str:
    """Replace so many words by new ones."""
    words = text.split(" ")
    for place in chance.sample(range(len(words)), count):
        words[place] = word(chance) + "x"
    return " ".join(words)


def jaccard(one: str, other: str, ngram: int = 5) -> float:
    a, b = set(shingles(one, ngram).tolist()), set(shingles(other, ngram).tolist())
    return len(a & b) / len(a | b)


def write_part(path: Path, texts: Sequence[str], key: str, source: int = 0) -> Part:
    with RowFile(path, {"id": "string", "key": "binary", "chars": "int64", "text": "string"}) as rows:
        for text in texts:
            rows.write((document_id(text), duplicate_key(text), len(text), text), len(text))
    return Part(path, source, key)
