"""A made-up corpus: stories of their own words, in several files."""

from __future__ import annotations

import json
import random
from pathlib import Path

NOUNS = [
    *("fox", "bear", "river", "tree", "house", "child", "boat", "mountain", "bird", "garden", "letter", "bridge", "window", "lamp"),
    *("winter", "song", "horse", "teacher", "stone", "cloud"),
]
VERBS = ["found", "carried", "lost", "painted", "followed", "heard", "opened", "remembered", "built", "watched", "hid", "sold"]
PLACES = ["behind the mill", "near the old harbour", "in the long valley", "under a grey sky", "beside the market", "by the road"]


def sentence(rng: random.Random) -> str:
    one, other, third = rng.sample(NOUNS, 3)
    first = f"The {one} {rng.choice(VERBS)} number {rng.randrange(10**6)} {rng.choice(PLACES)}"
    return f"{first}, and {rng.randrange(10**6)} times a {other} {rng.choice(VERBS)} the {third}."


def story(seed: str, sentences: int = 12) -> str:
    """One text; different seeds share no five words in a row that matter."""
    rng = random.Random(seed)
    return " ".join(sentence(rng) for _ in range(sentences))


def nearly(text: str, number: int) -> str:
    """A near-duplicate: one word of the text is another."""
    words = text.split()
    words[len(words) // 2] = f"changed{number}"
    return " ".join(words)


def write_stories(path: Path, name: str, count: int, sentences: int = 12) -> list[str]:
    """Write a .jsonl of stories and give their texts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [story(f"{name} {number}", sentences) for number in range(count)]
    path.write_text(
        "".join(json.dumps({"text": text, "date": f"2020-01-{1 + i % 28:02d}"}) + "\n" for i, text in enumerate(texts)), "utf-8"
    )
    return texts
