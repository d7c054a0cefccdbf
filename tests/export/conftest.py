"""A tokenizer and small random decoders, tied and untied, with grouped and with full attention."""

from __future__ import annotations

import pytest
import torch

from luthier.model.decoder import Decoder
from luthier.tokenizer.tokenizer import Tokenizer
from tests.small import SENTENCES as COMMON
from tests.small import small_decoder, small_tokenizer

SENTENCES = (*COMMON[:2], f"{COMMON[2]} It's 1,234 km long.")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return small_tokenizer(340, SENTENCES)


def decoder(tokenizer: Tokenizer, *, tied: bool, kv_heads: int, head_dim: int = 8, extra_rows: int = 0) -> Decoder:
    """A decoder whose greedy tokens vary and whose norms are not all ones."""
    model = small_decoder(
        seed=7,
        n_layers=3,
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
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.add_(torch.linspace(-0.3, 0.3, len(weight)))
    return model
