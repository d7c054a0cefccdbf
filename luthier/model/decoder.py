"""The decoder: pre-norm blocks of attention and an MLP. In: token ids (B, T). Out: hidden states (B, T, D). Next room: generate, train.

Weights are named as in Hugging Face's Llama, without its `model.` prefix, so that export is a copy.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.config.model import ModelConfig
from luthier.model.attention import Attention, Place
from luthier.model.cache import KVCache
from luthier.model.layers import Linear, embed, embedding_noise, mlp, norm, positions_in_documents
from luthier.model.recompute import Recompute, run_block


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.input_layernorm = norm(config)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = norm(config)
        self.mlp = mlp(config)

    def forward(self, x: Tensor, place: Place, values: Tensor | None, cache: KVCache | None, attention: str) -> Tensor:
        x = x + self._thin(self.self_attn(self.input_layernorm(x), place, values, cache, attention))
        return x + self._thin(self.mlp(self.post_attention_layernorm(x)))

    def _thin(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Decoder(nn.Module):
    """A decoder-only language model.

    `compute_dtype` is the type of activations and products; weights stay as they are (fp32 while training). `attention` is the back end
    that rows without a cache take; `checkpointing` is what its blocks keep for the backward pass; `neftune_alpha` is the size of the
    noise on its embeddings while it trains.
    """

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32, attention: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.attention = attention
        self.checkpointing: Recompute = "off"
        self.neftune_alpha = 0.0
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = norm(config)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.d_model, config.vocab_size)
        if "learned" in config.positions:
            self.embed_positions = nn.Embedding(config.max_seq_len, config.d_model)
        if config.residual_scalars:
            self.resid_lambdas, self.x0_lambdas = nn.Parameter(torch.ones(config.n_layers)), nn.Parameter(torch.zeros(config.n_layers))
        if config.value_embeddings:
            width, layers = config.n_kv_heads * config.head_dim, range(config.n_layers)
            tables = {str(i): nn.Embedding(config.vocab_size, width) for i in layers if config.has_value_embedding(i)}
            self.value_embeddings = nn.ModuleDict(tables)

    @property
    def head_weight(self) -> Tensor:
        """The output projection, (V, D); the embedding itself when tied."""
        return self.embed_tokens.weight if self.config.tie_embeddings else self.lm_head.weight

    def forward(self, inputs: Tensor, *, doc_ids: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Run the blocks and the final norm.

        Shapes: inputs (B, T), or bags of tokens (B, T, S); doc_ids (B, T), with a cache those of all that it then holds -> (B, T, D)
        """
        config, start = self.config, 0 if cache is None else cache.length
        positions = torch.arange(start, start + inputs.shape[1], device=inputs.device)  # (T,)
        place = Place.of(config, positions, self.compute_dtype, doc_ids)
        x = first = self._embed(inputs, positions, doc_ids)
        if config.residual_scalars:
            first = F.rms_norm(x, (config.d_model,), eps=config.norm_eps)
        for layer, block in enumerate(self.layers):
            if config.residual_scalars:
                x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * first
            x = run_block(block, self.checkpointing, x, place, self._values(layer, inputs), cache, self.attention)
        if cache is not None:
            cache.advance(inputs.shape[1])
        return self.norm(x)

    def _embed(self, inputs: Tensor, positions: Tensor, doc_ids: Tensor | None) -> Tensor:
        """What the first block is given: the tokens' embeddings and, where they are learned, their positions'."""
        x = embed(self.embed_tokens.weight, inputs, self.compute_dtype)  # (B, T) -> (B, T, D)
        if "learned" in self.config.positions:
            if doc_ids is not None:
                positions = positions_in_documents(doc_ids)[:, -inputs.shape[1] :]  # (B, T)
            x = x + embed(self.embed_positions.weight, positions.expand(len(inputs), -1), self.compute_dtype)
        if self.training and self.neftune_alpha:
            x = x + embedding_noise(x, doc_ids, self.neftune_alpha)
        return F.dropout(x, self.config.dropout, self.training) if self.config.dropout else x

    def _values(self, layer: int, inputs: Tensor) -> Tensor | None:
        """What a layer adds to its values, (B, T, K*E)."""
        if not self.config.has_value_embedding(layer):
            return None
        table = self.value_embeddings[str(layer)].weight
        assert isinstance(table, Tensor)
        return embed(table, inputs, self.compute_dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Project hidden states to unnormalised log-probabilities.

        Shapes: (..., D) -> (..., V), fp32
        """
        logits, cap = F.linear(hidden, self.head_weight.to(hidden.dtype)).float(), self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def initialise(model: Decoder, seed: int) -> None:
    """Draw the initial weights: normal with `init_std`; projections into the residual stream divided by sqrt(2 n_layers).

    Gains and a are one; biases, b and the value embeddings' gates (which then pass everything) are zero. So all switches but value
    embeddings begin as the plain model, and what is common to two models of a seed is drawn alike.
    Source: Radford et al. 2019 (GPT-2), section 2.3; nanochat's `init_weights` for the gates.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = model.config.init_std / math.sqrt(2 * model.config.n_layers)
    for name, weight in model.named_parameters():
        if name.endswith((".bias", "x0_lambdas", "value_gate.weight")):
            weight.zero_()
        elif weight.ndim < 2:
            weight.fill_(1.0)
        else:
            std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else model.config.init_std
            weight.copy_(torch.empty(weight.shape).normal_(0.0, std, generator=generator))
