"""Extending: further merges behind everything, every id as it was, and the result of training at once where text is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.config.tokenization import TokenizerSection
from luthier.errors import ConfigError, DataError
from luthier.runs.progress import Progress
from luthier.tokenizer.extend import extend_tokenizer
from luthier.tokenizer.foreign import import_tokenizer
from luthier.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.corpus import ENGLISH, TEXTS, train
from tests.tokenizer.kinds import tokenizer_of
from tests.tokenizer.test_foreign import peer_file

pytest.importorskip("tokenizers")


def extended(tokenizer: Tokenizer, vocab_size: int, texts: list[str] = TEXTS) -> Tokenizer:
    config = TokenizerSection(path="given", extend=True, vocab_size=vocab_size)
    return extend_tokenizer(tokenizer, texts, config, Progress(), None)


def test_the_same_text_gives_the_merges_of_training_at_once() -> None:
    assert extended(train(TEXTS, 330), 400).merges == train(TEXTS, 400).merges


def test_every_id_stays_and_new_ones_stand_behind() -> None:
    before = train(ENGLISH, 330)
    after = extended(before, 380)
    assert after.vocab_size == 380 and after.special == before.special
    assert after.token_bytes[:330] == before.token_bytes
    for text in TEXTS:
        assert after.encode(text) == after.encode_readable(text)
        assert after.decode(after.encode(text)) == text
    assert len(after.encode(TEXTS[6])) < len(before.encode(TEXTS[6]))


def test_a_foreign_one_is_extended_saved_and_loaded(tmp_path: Path) -> None:
    before = import_tokenizer(peer_file(tmp_path / "tokenizer.json", "gpt4"))
    after = extended(before, before.vocab_size + 20)
    after.save(tmp_path / "more.json")
    assert Tokenizer.load(tmp_path / "more.json").parts == after.parts
    assert [token for token in after.parts.ids if token >= before.vocab_size] == list(range(before.vocab_size, before.vocab_size + 20))


def test_what_cannot_be_extended_is_refused() -> None:
    with pytest.raises(ConfigError, match="'uncased'"):
        extended(tokenizer_of("uncased unk"), 4096)
    with pytest.raises(ConfigError, match="must be more than"):
        extended(train(ENGLISH, 330), 330)
    with pytest.raises(DataError, match="text to train on"):
        extended(train(ENGLISH, 330), 400, [""])
    with pytest.raises(DataError, match="added entries"):
        extended(train(ENGLISH, 330).with_token("ab"), 400)
