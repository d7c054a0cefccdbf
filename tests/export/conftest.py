"""A tokenizer and small random decoders, tied and untied, with grouped and with full attention."""

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
    "A river flows from the mountains to the sea; the sea is salt, the river is not. It's 1,234 km long.",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES * 5, TokenizerSection(vocab_size=340), Progress(), None)


def decoder(tokenizer: Tokenizer, *, tied: bool, kv_heads: int, head_dim: int = 8, extra_rows: int = 0) -> Decoder:
    """A decoder whose greedy tokens vary: large initial weights."""
    config = ModelConfig(
        d_model=32,
        n_layers=3,
        n_heads=4,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=56,
        vocab_size=tokenizer.vocab_size + extra_rows,
        max_seq_len=96,
        rope_theta=500.0,
        norm_eps=1e-4,
        tie_embeddings=tied,
        init_std=0.3,
    )
    model = Decoder(config)
    initialise(model, seed=7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.add_(torch.linspace(-0.3, 0.3, len(weight)))
    return model.eval()
