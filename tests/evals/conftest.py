"""A tokenizer and a small random decoder."""

from __future__ import annotations

import pytest

from luthier.model.decoder import Decoder
from luthier.tokenizer.tokenizer import Tokenizer
from tests.small import small_decoder, small_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture
def model(tokenizer: Tokenizer) -> Decoder:
    return small_decoder(seed=3, vocab_size=tokenizer.vocab_size, max_seq_len=24)
