"""A tiny random decoder and its engine."""

from __future__ import annotations

import pytest

from luthier.generate.engine import Engine
from luthier.model.decoder import Decoder
from luthier.tokenizer.tokenizer import Tokenizer
from tests.small import small_decoder, small_tokenizer


def tiny_decoder(vocab_size: int = 64, max_seq_len: int = 48, seed: int = 1) -> Decoder:
    return small_decoder(seed, vocab_size=vocab_size, max_seq_len=max_seq_len, tie_embeddings=False, init_std=0.3)


@pytest.fixture
def decoder() -> Decoder:
    return tiny_decoder()


@pytest.fixture
def engine(decoder: Decoder) -> Engine:
    return Engine(decoder)


def tiny_tokenizer() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return small_tokenizer()
