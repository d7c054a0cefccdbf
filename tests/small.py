"""Small models and tokenizers that many tests share."""

from __future__ import annotations

from luthier.config.model import ModelConfig
from luthier.config.tokenization import TokenizerSection
from luthier.model.decoder import Decoder, initialise
from luthier.runs.progress import Progress
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer

SENTENCES = (
    "Music is the art of arranging sound in time.",
    "The violin has four strings, and a luthier makes it of spruce and maple.",
    "A river flows from the mountains to the sea; the sea is salt, the river is not.",
)
SHAPE = {
    "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48, "vocab_size": 97, "max_seq_len": 64,
    "rope_theta": 10_000.0, "norm_eps": 1e-5, "tie_embeddings": True, "init_std": 0.2,
}  # fmt: skip


def small_shape(**changes: object) -> ModelConfig:
    """A model's shape, with some dimensions changed."""
    return ModelConfig.model_validate({**SHAPE, **changes})


def small_decoder(seed: int = 1, **changes: object) -> Decoder:
    """A random decoder; large initial weights make its greedy tokens vary."""
    model = Decoder(small_shape(**changes))
    initialise(model, seed)
    return model.eval()


def small_tokenizer(vocab_size: int = 320, sentences: tuple[str, ...] = SENTENCES) -> Tokenizer:
    """A tokenizer trained on a few sentences."""
    return train_tokenizer(sentences * 5, TokenizerSection(vocab_size=vocab_size), Progress(), None)
