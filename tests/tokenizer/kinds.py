"""Tokenizers of every kind and layout, trained on the shared texts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from luthier.config.load import load_recipe
from luthier.config.tokenization import TokenizerSection
from luthier.runs.progress import Progress
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer
from tests.tokenizer.corpus import ENGLISH, TEXTS

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "tokenizers"
HIGH_IDS = {"pad": 0, "begin_of_text": 1, "end_of_text": 2, "unknown": 3, "system": 500, "user": 501, "assistant": 502, "end_of_turn": 503}
LAYOUTS: dict[str, dict[str, Any]] = {
    "back": {},
    "front": {"place": "front", "spare": 3},
    "ids": {
        "ids": HIGH_IDS,
        "strings": {"pad": "<pad>", "begin_of_text": "<bos>", "end_of_text": "<eos>", "unknown": "<unk>", "end_of_turn": "<|end|>"},
        "spare": 12,
        "chat_prefix": "\n",
        "chat_suffix": "\n",
        "chat_begins": True,
        "chat_ends": True,
    },
    "shared": load_recipe([RECIPES / "uncased_10k.toml"]).tokenizer.layout.model_dump(),
}
KINDS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "bpe digits": {"pattern": "digits"},
    "characters unk": {"kind": "characters", "vocab_size": 300},
    "characters bytes": {"kind": "characters", "unknown": "bytes", "vocab_size": 330},
    "characters drop": {"kind": "characters", "unknown": "drop", "vocab_size": 300},
    "uncased unk": {"kind": "uncased"},
    "uncased drop": {"kind": "uncased", "unknown": "drop"},
}
LOSSLESS = ("bpe", "bpe digits", "characters bytes")


@functools.cache
def tokenizer_of(kind: str, layout: str = "back") -> Tokenizer:
    """A tokenizer of a kind with a layout; tests share it, it never changes."""
    config = TokenizerSection.model_validate({"vocab_size": 516, **KINDS[kind], "layout": LAYOUTS[layout]})
    texts = TEXTS if config.kind == "characters" else ENGLISH * 3 + TEXTS
    return train_tokenizer(texts, config, Progress(), None)


FITTING = {layout: tuple(KINDS) for layout in LAYOUTS}
FITTING["ids"] = tuple(kind for kind in KINDS if "vocab_size" not in KINDS[kind])
EVERY = [(kind, layout) for layout in LAYOUTS for kind in FITTING[layout]]


def has_literal(tokenizer: Tokenizer, text: str) -> bool:
    """Whether a text holds a special token's string, which `tokenizers` would take for the token."""
    return any(string in text for string in tokenizer.special.by_string)
