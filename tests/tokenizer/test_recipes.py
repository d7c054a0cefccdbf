"""The recipes of tokenizers: each trains on a little text and has the layout that it states."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from luthier.config.load import load_recipe
from luthier.runs.progress import Progress
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer
from tests.tokenizer.corpus import ENGLISH
from tests.tokenizer.kinds import RECIPES

FILES = sorted(RECIPES.glob("*.toml"))


def generated_text() -> list[str]:
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(300)]
    return [" ".join(chance.choices(words, k=60)) + f" {chance.randint(0, 99999)} {{été}} “so”." for _ in range(40)] + ENGLISH


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def trained(request: pytest.FixtureRequest) -> tuple[Path, Tokenizer]:
    recipe = load_recipe([request.param])
    return request.param, train_tokenizer(generated_text(), recipe.tokenizer, Progress(), None)


def test_there_is_a_recipe_for_each() -> None:
    names = {path.stem for path in FILES}
    assert names == {"bytes_8k", "bytes_16k", "bytes_32k", "bytes_65k", "characters", "uncased_10k"}


def test_each_trains_and_comes_back(trained: tuple[Path, Tokenizer], tmp_path: Path) -> None:
    path, tokenizer = trained
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    for text in [*ENGLISH, "{été} 2025"]:
        assert loaded.decode(loaded.encode(text)) == tokenizer.normalise(text)
        if "bytes" in path.stem:
            assert tokenizer.normalise(text) == text


def test_each_says_its_command_and_what_to_expect(trained: tuple[Path, Tokenizer]) -> None:
    path, _ = trained
    text = path.read_text("utf-8")
    assert text.startswith("#") and f"luthier tokenizer recipes/tokenizers/{path.name}" in text and "# Expected:" in text


def test_sizes_and_ids_are_those_stated(trained: tuple[Path, Tokenizer]) -> None:
    path, tokenizer = trained
    size = load_recipe([path]).tokenizer.vocab_size
    assert size == {
        "bytes_8k": 8192, "bytes_16k": 16384, "bytes_32k": 32000, "bytes_65k": 65536, "characters": 4979, "uncased_10k": 10001,
    }[path.stem]  # fmt: skip
    special = tokenizer.special
    if path.stem == "bytes_65k":
        assert (special.pad, special.begin_of_text, special.end_of_text, special.unknown) == (0, 1, 2, 3)
        assert (special.system, special.user, special.assistant, special.end_of_turn) == (65520, 65521, 65522, 65523)
        assert tokenizer.vocab_size == 65536 and special.spare[-1] == 65535
        assert 65536 - 256 - len(special.by_string) == 65260
    if path.stem == "uncased_10k":
        assert (special.unknown, special.pad, special.begin_of_text, special.end_of_text) == (0, 1, 2, 3)
        assert (special.user, special.assistant) == (4, 5) and tokenizer.entries[0] == 6
        assert "{" in {tokenizer.decode([token]) for token in tokenizer.entries}
