"""A tiny random decoder and its engine."""

from __future__ import annotations

import pytest

from luthier.config.schema import ModelConfig, TokenizerSection
from luthier.generate.engine import Engine
from luthier.model.decoder import Decoder, initialise
from luthier.runs.progress import Progress
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer

SENTENCES = (
    "Music is the art of arranging sound in time.",
    "The violin has four strings, and a luthier makes it of spruce and maple.",
    "A river flows from the mountains to the sea; the sea is salt, the river is not.",
)


def tiny_decoder(vocab_size: int = 64, max_seq_len: int = 48, seed: int = 1) -> Decoder:
    config = ModelConfig(
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        d_ff=48,
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tie_embeddings=False,
        init_std=0.3,
    )
    model = Decoder(config)
    initialise(model, seed)
    return model.eval()


@pytest.fixture
def decoder() -> Decoder:
    return tiny_decoder()


@pytest.fixture
def engine(decoder: Decoder) -> Engine:
    return Engine(decoder)


def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES * 5, TokenizerSection(vocab_size=320), Progress(), None)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()
