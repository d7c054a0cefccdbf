"""Random settings of every switch of the decoder."""

from __future__ import annotations

import random
from typing import Any

import torch

from luthier.model.decoder import Decoder

POSITIONS = ("rope", "rope_interleaved", "alibi", "none", "learned", ("rope", "none"), ("none", "alibi", "rope_interleaved"))


def draw_switches(chance: random.Random) -> dict[str, Any]:
    """A mix of switches that any small shape can have."""
    return {
        "norm": chance.choice(["rmsnorm", "layernorm"]),
        "mlp": chance.choice(["swiglu", "gelu", "relu2"]),
        "bias": chance.random() < 0.5,
        "positions": chance.choice(POSITIONS),
        "windows": chance.choice([0, 5, (3, 0), (0, 0, 7)]),
        "qk_norm": chance.random() < 0.5,
        "logit_softcap": chance.choice([None, 5.0]),
        "dropout": chance.choice([0.0, 0.1]),
        "residual_scalars": chance.random() < 0.5,
        "value_embeddings": chance.random() < 0.5,
        "key_offset": chance.random() < 0.5,
        "tie_embeddings": chance.random() < 0.5,
        "n_kv_heads": chance.choice([1, 2, 4]),
        "n_layers": chance.choice([1, 2, 3]),
    }


@torch.no_grad()
def shake(model: Decoder) -> Decoder:
    """Move gains, biases, scalars and gates away from where they begin, so that leaving one out is seen."""
    draw = torch.Generator().manual_seed(9)
    for weight in model.parameters():
        if weight.ndim == 1 or not weight.any():
            weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
    return model
