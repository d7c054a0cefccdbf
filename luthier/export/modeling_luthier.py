"""The decoder for `transformers`, whole in this file. In: token ids. Out: logits. Next: it goes with the weights of a model that no
architecture of `transformers` can say; `AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)` runs it.

B is rows, T new positions, S all positions, D the width, H query heads, K key heads, E the width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class LuthierConfig(PretrainedConfig):
    """A decoder's shape; patterns are repeated over the layers."""

    model_type = "luthier"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    attribute_map = {  # noqa: RUF012
        "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads",
        "intermediate_size": "d_ff", "max_position_embeddings": "max_seq_len",
    }  # fmt: skip

    def __init__(
        self, vocab_size: int = 512, d_model: int = 64, n_layers: int = 2, n_heads: int = 4, n_kv_heads: int = 4, head_dim: int = 16,
        d_ff: int = 192, max_seq_len: int = 256, norm: str = "rmsnorm", norm_eps: float = 1e-5, mlp: str = "swiglu", bias: bool = False,
        positions: tuple[str, ...] = ("rope",), rope_theta: float = 10_000.0, windows: tuple[int, ...] = (0,), qk_norm: bool = False,
        logit_softcap: float | None = None, dropout: float = 0.0, residual_scalars: bool = False, value_embeddings: bool = False,
        key_offset: bool = False, initializer_range: float = 0.02, use_cache: bool = True, tie_word_embeddings: bool = True, **others: Any,
    ) -> None:  # fmt: skip
        self.vocab_size, self.d_model, self.n_layers, self.max_seq_len = vocab_size, d_model, n_layers, max_seq_len
        self.n_heads, self.n_kv_heads, self.head_dim, self.d_ff = n_heads, n_kv_heads, head_dim, d_ff
        self.norm, self.norm_eps, self.mlp, self.bias, self.qk_norm = norm, norm_eps, mlp, bias, qk_norm
        self.positions, self.rope_theta, self.windows = list(positions), rope_theta, list(windows)
        self.logit_softcap, self.dropout = logit_softcap, dropout
        self.residual_scalars, self.value_embeddings, self.key_offset = residual_scalars, value_embeddings, key_offset
        self.initializer_range, self.use_cache = initializer_range, use_cache
        super().__init__(**{"tie_word_embeddings": tie_word_embeddings, **others})

    def has_value_embedding(self, layer: int) -> bool:
        """Every second layer has one, counted from the last."""
        return self.value_embeddings and (self.n_layers - 1 - layer) % 2 == 0


class LuthierNorm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension, in fp32. Shapes: (..., D) -> (..., D)"""

    def __init__(self, width: int, eps: float, centred: bool, bias: bool) -> None:
        super().__init__()
        self.weight, self.eps, self.centred = nn.Parameter(torch.ones(width)), eps, centred
        self.bias = nn.Parameter(torch.zeros(width)) if centred and bias else None

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() - x.float().mean(-1, keepdim=True) if self.centred else x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()
        return (wide if self.bias is None else wide + self.bias.float()).to(x.dtype)


class LuthierMLP(nn.Module):
    """SwiGLU, or GELU or squared ReLU without a gate. Shapes: (B, T, D) -> (B, T, D)"""

    def __init__(self, config: LuthierConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        if self.kind == "swiglu":
            self.gate_proj = nn.Linear(config.d_model, config.d_ff, config.bias)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, config.bias)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up_proj(x)  # (B, T, F)
        if self.kind == "swiglu":
            return self.down_proj(F.silu(self.gate_proj(x)) * hidden)
        return self.down_proj(F.gelu(hidden) if self.kind == "gelu" else F.relu(hidden).square())


class LuthierAttention(nn.Module):
    """Causal attention with grouped heads, positions and a window of its own. Shapes: (B, T, D) -> (B, T, D)"""

    def __init__(self, config: LuthierConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.positions = config.positions[layer % len(config.positions)]
        self.window = config.windows[layer % len(config.windows)]
        self.q_proj = nn.Linear(config.d_model, config.n_heads * config.head_dim, config.bias)
        self.k_proj = nn.Linear(config.d_model, config.n_kv_heads * config.head_dim, config.bias)
        self.v_proj = nn.Linear(config.d_model, config.n_kv_heads * config.head_dim, config.bias)
        self.o_proj = nn.Linear(config.n_heads * config.head_dim, config.d_model, config.bias)
        self.q_norm = LuthierNorm(config.head_dim, config.norm_eps, False, False) if config.qk_norm else None
        self.k_norm = LuthierNorm(config.head_dim, config.norm_eps, False, False) if config.qk_norm else None
        gated = config.has_value_embedding(layer)
        self.value_gate = nn.Linear(min(32, config.d_model), config.n_kv_heads, bias=False) if gated else None
        self.late_heads = -(-config.n_kv_heads // 2) if config.key_offset else 0

    def forward(self, x: Tensor, place: Place, values: Tensor | None, cache: Any) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.value_gate is not None and values is not None:
            gate = 2 * torch.sigmoid(self.value_gate(x[..., : self.value_gate.in_features]))  # (B, T, K)
            v = v + (gate[..., None] * values.unflatten(-1, (-1, self.head_dim))).transpose(1, 2)  # (B, K, T, E)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.positions.startswith("rope"):
            q, k = (place.turn(heads, interleaved=self.positions == "rope_interleaved") for heads in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (B, K, S, E)
        if self.late_heads:
            k = torch.cat([place.one_late(k[:, : self.late_heads]), k[:, self.late_heads :]], dim=1)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, E)
        scores = (q @ k.mT).float() * self.head_dim**-0.5 + place.bias(self.window, self.positions == "alibi", q.shape[1])  # (B, H, T, S)
        y = torch.softmax(scores, dim=-1).to(v.dtype) @ v  # (B, H, T, E)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Place:
    """Where the new positions stand, the same for all layers. Shapes: positions (B, T), kept (B, S)"""

    def __init__(self, config: LuthierConfig, positions: Tensor, kept: Tensor | None, past: int) -> None:
        exponents = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32) / config.head_dim  # (E/2,)
        angles = positions[:, None, :, None].float() * config.rope_theta**-exponents  # (B, 1, T, E/2)
        self.cos, self.sin = angles.cos(), angles.sin()
        length = positions.shape[1]
        keys = torch.arange(past + length, device=positions.device)
        self.distance = keys[past:, None] - keys  # (T, S)
        self.kept = None if kept is None else kept[:, None, None, : past + length].bool()  # (B, 1, 1, S)

    def turn(self, x: Tensor, interleaved: bool) -> Tensor:
        """Turn pairs by their position's angle: (2i, 2i + 1) where interleaved, else (i, i + E/2). Shapes: (B, H, T, E) -> the same"""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
        turned = (a * cos - b * sin, b * cos + a * sin)
        return torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)

    def one_late(self, k: Tensor) -> Tensor:
        """Give each position the key of the one before it, the first that counts its own. Shapes: (B, K, S, E) -> the same"""
        before = torch.cat([k[:, :, :1], k[:, :, :-1]], dim=2)
        if self.kept is None:
            return before
        kept = self.kept[:, :, 0, :, None]  # (B, 1, S, 1)
        return torch.where(kept & ~F.pad(kept[:, :, :-1], (0, 0, 1, 0)), k, before)

    def bias(self, window: int, alibi: bool, heads: int) -> Tensor:
        """What is added to the scores: ALiBi's share, and the least number where nothing is seen. Shapes: -> (B or 1, H or 1, T, S)"""
        hidden = (self.distance < 0) | (self.distance >= window) if window else self.distance < 0  # (T, S)
        if self.kept is not None:
            hidden = hidden | ~self.kept  # (B, 1, T, S)
        score = torch.zeros_like(self.distance, dtype=torch.float32)[None, None]  # (1, 1, T, S)
        if alibi:
            whole = 1 << (heads.bit_length() - 1)
            slopes = [2.0 ** (-8 * i / whole) for i in range(1, whole + 1)] + [2.0 ** (-4 * i / whole) for i in range(1, 2 * whole, 2)]
            score = -self.distance * torch.tensor(slopes[:heads], device=self.distance.device)[None, :, None, None]  # (1, H, T, S)
        return score.masked_fill(hidden, torch.finfo(torch.float32).min)


class LuthierBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Shapes: (B, T, D) -> (B, T, D)"""

    def __init__(self, config: LuthierConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.input_layernorm = _norm(config)
        self.self_attn = LuthierAttention(config, layer)
        self.post_attention_layernorm = _norm(config)
        self.mlp = LuthierMLP(config)

    def forward(self, x: Tensor, place: Place, values: Tensor | None, cache: Any) -> Tensor:
        x = x + F.dropout(self.self_attn(self.input_layernorm(x), place, values, cache), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), self.dropout, self.training)


def _norm(config: LuthierConfig) -> LuthierNorm:
    return LuthierNorm(config.d_model, config.norm_eps, config.norm == "layernorm", config.bias)


class LuthierForCausalLM(PreTrainedModel, GenerationMixin):
    """The decoder with its head; parts are named as luthier names them."""

    config_class = LuthierConfig
    base_model_prefix = ""
    _no_split_modules = ["LuthierBlock"]  # noqa: RUF012

    def __init__(self, config: LuthierConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(LuthierBlock(config, layer) for layer in range(config.n_layers))
        self.norm = _norm(config)
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        if "learned" in config.positions:
            self.embed_positions = nn.Embedding(config.max_seq_len, config.d_model)
        if config.residual_scalars:
            self.resid_lambdas, self.x0_lambdas = nn.Parameter(torch.ones(config.n_layers)), nn.Parameter(torch.zeros(config.n_layers))
        with_values = [layer for layer in range(config.n_layers) if config.has_value_embedding(layer)]
        width = config.n_kv_heads * config.head_dim
        self.value_embeddings = nn.ModuleDict({str(layer): nn.Embedding(config.vocab_size, width) for layer in with_values})
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def get_output_embeddings(self) -> Any:
        return self.embed_tokens if self.lm_head is None else self.lm_head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, past_key_values: Any = None,
        labels: Tensor | None = None, use_cache: bool | None = None, logits_to_keep: int = 0, **others: Any,
    ) -> CausalLMOutputWithPast:  # fmt: skip
        """Run the decoder. Shapes: input_ids, position_ids, labels (B, T), attention_mask (B, S) -> logits (B, T, V)"""
        config: Any = self.config
        if past_key_values is None and (config.use_cache if use_cache is None else use_cache) and not self.training:
            past_key_values = DynamicCache()
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            position_ids = torch.arange(past, past + input_ids.shape[1], device=input_ids.device)[None]  # (1, T)
        place = Place(config, position_ids, attention_mask, past)
        x = self.embed_tokens(input_ids)  # (B, T, D)
        if "learned" in config.positions:
            x = x + self.embed_positions(position_ids)
        x = F.dropout(x, config.dropout, self.training)
        first = F.rms_norm(x, (config.d_model,), eps=config.norm_eps) if config.residual_scalars else x
        for layer, block in enumerate(self.layers):
            if config.residual_scalars:
                x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * first
            values = self.value_embeddings[str(layer)](input_ids) if config.has_value_embedding(layer) else None  # (B, T, K*E)
            x = block(x, place, values, past_key_values)
        hidden = self.norm(x)[:, -logits_to_keep:]  # (B, T or logits_to_keep, D)
        logits = F.linear(hidden, self.get_output_embeddings().weight).float()
        if config.logit_softcap is not None:
            logits = config.logit_softcap * torch.tanh(logits / config.logit_softcap)
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, vocab_size=config.vocab_size, **others)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
