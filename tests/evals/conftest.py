"""A tokenizer and a small random decoder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from luthier.config.schema import ModelConfig, TokenizerSection
from luthier.model.decoder import Decoder, initialise
from luthier.runs.progress import Progress
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer

SENTENCES = (
    "Music is the art of arranging sound in time.",
    "The violin has four strings, and a luthier makes it of spruce and maple.",
    "A river flows from the mountains to the sea; the sea is salt, the river is not.",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES * 5, TokenizerSection(vocab_size=320), Progress(), None)


@pytest.fixture
def model(tokenizer: Tokenizer) -> Decoder:
    config = ModelConfig(
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        d_ff=48,
        vocab_size=tokenizer.vocab_size,
        max_seq_len=24,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tie_embeddings=True,
        init_std=0.2,
    )
    decoder = Decoder(config)
    initialise(decoder, seed=3)
    return decoder.eval()
