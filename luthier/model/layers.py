"""The decoder's small parts: linear maps, norms, MLPs, embeddings, positions. In: activations. Out: activations. Next: attention.

Weights stay in their own type (fp32); each product runs in the type of its input, so mixed precision is explicit, not ambient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.config.model import ModelConfig


class Linear(nn.Linear):
    """A linear map whose weight is cast to its input's type.

    Shapes: (..., in_features) -> (..., out_features)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype), None if self.bias is None else self.bias.to(input.dtype))


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, in fp32, and scale.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Subtract the mean and divide by the deviation over the last dimension, in fp32; scale and, with a bias, shift.

    Source: Ba et al. 2016, arXiv:1607.06450, equation 4.
    """

    def __init__(self, width: int, eps: float, bias: bool) -> None:
        super().__init__(width, eps, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


def norm(config: ModelConfig) -> nn.Module:
    """The norm of the residual stream that a model asks for."""
    return (
        LayerNorm(config.d_model, config.norm_eps, config.bias) if config.norm == "layernorm" else RMSNorm(config.d_model, config.norm_eps)
    )


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)).

    Shapes: (B, T, D) -> (B, T, D)
    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(d_model, d_ff, bias)
        self.up_proj = Linear(d_model, d_ff, bias)
        self.down_proj = Linear(d_ff, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # (B, T, F) -> (B, T, D)


class Ungated(nn.Module):
    """down(f(up(x))), where f is GELU, exact, or the square of ReLU.

    Shapes: (B, T, D) -> (B, T, D)
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; So et al. 2021, arXiv:2109.08668, section 4 (squared ReLU).
    """

    def __init__(self, d_model: int, d_ff: int, bias: bool, squared_relu: bool) -> None:
        super().__init__()
        self.squared_relu = squared_relu
        self.up_proj = Linear(d_model, d_ff, bias)
        self.down_proj = Linear(d_ff, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up_proj(x)  # (B, T, F)
        return self.down_proj(F.relu(hidden).square() if self.squared_relu else F.gelu(hidden))  # (B, T, D)


def mlp(config: ModelConfig) -> nn.Module:
    """The MLP that a model asks for."""
    if config.mlp == "swiglu":
        return SwiGLU(config.d_model, config.d_ff, config.bias)
    return Ungated(config.d_model, config.d_ff, config.bias, config.mlp == "relu2")


def embed(table: Tensor, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Look tokens up; the embedding of a bag of tokens is their mean.

    Shapes: table (V, D), inputs (B, T) or bags (B, T, S) -> (B, T, D)
    """
    x = F.embedding(inputs, table)
    return (x.mean(2) if inputs.ndim == 3 else x).to(dtype)


def positions_in_documents(doc_ids: Tensor) -> Tensor:
    """Count a row's positions anew from each document's first.

    Shapes: (B, S) -> (B, S)
    """
    positions = torch.arange(doc_ids.shape[1], device=doc_ids.device)  # (S,)
    begins = F.pad(doc_ids[:, 1:] != doc_ids[:, :-1], (1, 0), value=True)  # (B, S)
    return positions - torch.where(begins, positions, 0).cummax(dim=1).values


def embedding_noise(x: Tensor, doc_ids: Tensor | None, alpha: float) -> Tensor:
    """Draw uniform noise of size alpha / sqrt(L D) for embeddings; L is the number of tokens in each one's document.

    Shapes: x (B, T, D), doc_ids (B, T) in 0..T-1 -> (B, T, D)
    Source: Jain et al. 2023, arXiv:2310.05914, algorithm 1.
    """
    lengths = torch.full_like(x[..., 0], x.shape[1], dtype=torch.float32)  # (B, T)
    if doc_ids is not None:
        lengths = torch.zeros_like(lengths).scatter_add(1, doc_ids, torch.ones_like(lengths)).gather(1, doc_ids)
    size = alpha / (lengths * x.shape[2]).sqrt()[..., None]  # (B, T, 1)
    return ((2 * torch.rand_like(x, dtype=torch.float32) - 1) * size).to(x.dtype)


def rotary_tables(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute the cosines and sines by which heads are turned; computed, not stored, so no buffer can be left unset.

    Shapes: (T,) -> two of (T, E/2)
    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim  # (E/2,)
    angles = torch.outer(positions.float(), theta**-exponents)  # (T, E/2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + E/2) of every head by their position's angles (the half-split layout).

    Shapes: (B, H, T, E), (T, E/2), (T, E/2) -> (B, H, T, E)
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i + 1) of every head by their position's angles, as the paper has it.

    Shapes: (B, H, T, E), (T, E/2), (T, E/2) -> (B, H, T, E)
    """
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
