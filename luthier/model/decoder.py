"""The decoder: pre-norm blocks of attention and SwiGLU. In: token ids (B, T). Out: hidden states (B, T, D). Next room: generate, train.

Weights are named as in Hugging Face's Llama, without its `model.` prefix, so that export is a copy.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.config.model import ModelConfig
from luthier.model.attend import AttentionMask
from luthier.model.attention import Attention
from luthier.model.cache import KVCache
from luthier.model.layers import Linear, RMSNorm, SwiGLU, rotary_tables


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config.d_model, config.d_ff)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: AttentionMask, cache: KVCache | None, attention: str) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, attention)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """A decoder-only language model.

    `compute_dtype` is the type of activations and products; weights stay as they are (fp32 while training). `attention` is the back end
    that rows without a cache take.
    """

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32, attention: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.attention = attention
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.d_model, config.vocab_size)

    @property
    def head_weight(self) -> Tensor:
        """The output projection, (V, D); the embedding itself when tied."""
        return self.embed_tokens.weight if self.config.tie_embeddings else self.lm_head.weight

    def forward(self, inputs: Tensor, *, doc_ids: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Run the blocks and the final norm.

        Shapes: inputs (B, T), or bags of S tokens (B, T, S); doc_ids (B, T) -> (B, T, D)
        """
        start = 0 if cache is None else cache.length
        positions = torch.arange(start, start + inputs.shape[1], device=inputs.device)  # (T,)
        cos, sin = rotary_tables(positions, self.config.head_dim, self.config.rope_theta, self.compute_dtype)
        mask = AttentionMask(doc_ids=doc_ids)
        x = F.embedding(inputs, self.embed_tokens.weight)  # (B, T) -> (B, T, D)
        x = (x.mean(2) if inputs.ndim == 3 else x).to(self.compute_dtype)  # a bag's is the mean of its tokens'
        for block in self.layers:
            x = block(x, cos, sin, mask, cache, self.attention)
        if cache is not None:
            cache.advance(inputs.shape[1])
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Project hidden states to unnormalised log-probabilities.

        Shapes: (..., D) -> (..., V), fp32
        """
        return F.linear(hidden, self.head_weight.to(hidden.dtype)).float()


@torch.no_grad()
def initialise(model: Decoder, seed: int) -> None:
    """Draw the initial weights: normal with `init_std`; projections into the residual stream divided by sqrt(2 n_layers).

    Source: Radford et al. 2019 (GPT-2), section 2.3.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = model.config.init_std / math.sqrt(2 * model.config.n_layers)
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            weight.fill_(1.0)
            continue
        std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else model.config.init_std
        weight.copy_(torch.empty(weight.shape).normal_(0.0, std, generator=generator))
