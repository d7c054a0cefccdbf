"""A recipe small enough to run whole in seconds, on text made here."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

NOUNS = ["river", "mountain", "violin", "teacher", "garden", "window", "engine", "planet", "forest", "letter", "market", "doctor"]
VERBS = ["holds", "carries", "finds", "follows", "paints", "counts", "repairs", "watches", "crosses", "remembers"]
ADJECTIVES = ["old", "quiet", "bright", "narrow", "wooden", "distant", "early", "careful", "green", "famous"]
THINGS = ("river", "violin", "teacher", "garden", "window", "engine", "planet", "forest")


def sentence(chance: random.Random) -> str:
    a, b = chance.choice(ADJECTIVES), chance.choice(ADJECTIVES)
    return f"The {a} {chance.choice(NOUNS)} {chance.choice(VERBS)} the {b} {chance.choice(NOUNS)}."


def write_corpus(folder: Path, documents: int = 150, seed: int = 1) -> Path:
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"text": " ".join(sentence(chance) for _ in range(8))} for _ in range(documents)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_instructions(path: Path, count: int = 60) -> Path:
    chance = random.Random(2)
    rows = [
        {"instruction": f"What does the {noun} do? {i}", "input": "", "output": sentence(chance)}
        for i in range(count)
        for noun in NOUNS[:1]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_pairs(path: Path, count: int = 48) -> Path:
    """Pairs whose chosen answer is kind and whose rejected one is not, neither always the longer."""
    rows = [
        {
            "prompt": f"What is the {THINGS[i % 8]}? {i}",
            "chosen": f"The {THINGS[i % 8]} is fine." + " Thank you." * (i % 2),
            "rejected": f"The {THINGS[i % 8]} is bad." + " Go away." * (i % 3 == 0),
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Arguments of a run that takes seconds."""
    return make_tiny(tmp_path)


def make_tiny(tmp_path: Path) -> list[str]:
    """Write a recipe and its text, to be run under `tmp_path / "runs"`."""
    corpus = write_corpus(tmp_path / "corpus")
    instructions = write_instructions(tmp_path / "instructions.jsonl")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f"""
[runs]
root = "{tmp_path / "runs"}"
[data]
sources = ["{corpus}"]
[tokenizer]
vocab_size = 400
[pack]
seq_len = 32
[model]
d_model = 32
n_layers = 2
n_heads = 2
n_kv_heads = 1
d_ff = 64
[optim]
name = "muon"
lr = 5e-3
muon_lr = 0.01
[pretrain]
steps = 24
global_batch_tokens = 256
eval_every = 8
eval_tokens = 512
sample_every = 12
checkpoint_every = 5
sample_prompts = ["The old"]
[sft]
epochs = 2
global_batch_tokens = 256
eval_every = 8
eval_tokens = 512
sample_every = 8
checkpoint_every = 3
sample_prompts = ["What does the river do?"]
sources = [{{task = "instructions", path = "{instructions}"}}]
[sampling]
max_new_tokens = 12
[eval]
questions = ["What does the river do?", "What is a violin?"]
[export]
parity_tokens = 8
"""
    )
    return [str(recipe)]
