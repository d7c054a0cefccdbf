"""nanochat's model and optimizer, written anew with plain torch from what it publishes. In: a task. Out: a peer of the benchmark.

Source: github.com/karpathy/nanochat of July 2026, its model, optimizer and pretraining script. Kept: rotary positions, QK-norm times 1.2,
ReLU squared, untied head, norm behind the embedding, value embeddings with gates on every second layer, scalars on the residual stream
and on the first embedding, the mix with the previous token, the mid-layer output taken off, logits capped at 15; Muon with Polar Express
and normalised rows for the blocks, AdamW for the rest, both compiled; no clipping. Weights are cast by each product, not by autocast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from training_peers import Task

POLAR = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients of five rounds. Source: Amsel et al. 2025, arXiv:2505.16932"""
GATE = 12
SMEAR = 24


def norm(x: Tensor) -> Tensor:
    """RMSNorm without a gain."""
    return F.rms_norm(x, (x.shape[-1],))


class Cast(nn.Linear):
    """A product in its input's type."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int, hidden: int, has_values: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (Cast(d_model, d_model) for _ in range(4))
        self.gate = Cast(GATE, n_heads) if has_values else None
        self.up, self.down = Cast(d_model, hidden), Cast(hidden, d_model)

    def forward(self, x: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        h = norm(x)
        q, k, v = (part(h).unflatten(-1, (self.n_heads, -1)) for part in (self.q, self.k, self.v))  # (B, T, H, E)
        if values is not None and self.gate is not None:
            v = v + 3 * torch.sigmoid(self.gate(h[..., :GATE])).unsqueeze(-1) * values.unflatten(-1, (self.n_heads, -1))
        q, k = (1.2 * norm(turn(part, cos, sin)) for part in (q, k))
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(norm(x))).square())


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions. Shapes: (B, T, H, E), (T, 1, E/2) -> (B, T, H, E)"""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


class Model(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        d_model, layers, entries = task.d_model, task.n_layers, task.vocab_size
        self.dtype = torch.bfloat16 if task.bf16 else torch.float32
        self.tokens = nn.Embedding(entries, d_model)
        self.head = Cast(d_model, entries)
        with_values = [i % 2 == (layers - 1) % 2 for i in range(layers)]
        self.blocks = nn.ModuleList(Block(d_model, task.n_heads, task.mlp, has) for has in with_values)
        self.values = nn.ModuleDict({str(i): nn.Embedding(entries, d_model) for i, has in enumerate(with_values) if has})
        last = max(1, layers - 1)
        self.residual = nn.Parameter(torch.tensor([1.15 - 0.10 * i / last for i in range(layers)]))
        self.first = nn.Parameter(torch.tensor([0.20 - 0.15 * i / last for i in range(layers)]))
        self.smear_gate, self.smear = Cast(SMEAR, 1), nn.Parameter(torch.zeros(1))
        self.backout = nn.Parameter(torch.full((1,), 0.2))
        head_dim = d_model // task.n_heads
        angles = torch.outer(torch.arange(task.seq_len).float(), 100_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim))
        self.register_buffer("cos", angles.cos().to(self.dtype)[:, None])
        self.register_buffer("sin", angles.sin().to(self.dtype)[:, None])
        self.initialise(math.sqrt(3 / d_model))

    @torch.no_grad()
    def initialise(self, bound: float) -> None:
        nn.init.normal_(self.tokens.weight, std=0.8)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.uniform_(self.smear_gate.weight, 0.0, 0.02)
        for name, p in self.blocks.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.zeros_(p)
            elif name.endswith("gate.weight"):
                nn.init.uniform_(p, 0.0, 0.02)
            else:
                nn.init.uniform_(p, *((-0.4 * bound, 0.4 * bound) if name.endswith("up.weight") else (-bound, bound)))
        for embedding in self.values.values():
            nn.init.uniform_(embedding.weight, -bound, bound)  # pyright: ignore[reportArgumentType]
        self.tokens.to(self.dtype)
        self.values.to(self.dtype)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        cos, sin = self.cos[: inputs.shape[1]], self.sin[: inputs.shape[1]]  # pyright: ignore[reportIndexIssue]
        x = norm(self.tokens(inputs))
        gate = self.smear.to(x.dtype) * torch.sigmoid(self.smear_gate(x[:, 1:, :SMEAR]))
        start = x = torch.cat((x[:, :1], x[:, 1:] + gate * x[:, :-1]), dim=1)
        middle = x
        for i, block in enumerate(self.blocks):
            x = self.residual[i] * x + self.first[i] * start
            values = self.values[str(i)](inputs).to(x.dtype) if str(i) in self.values else None
            x = block(x.to(self.dtype), values, cos, sin)
            middle = x if i == len(self.blocks) // 2 else middle
        logits = self.head(norm(x - self.backout.to(x.dtype) * middle)).float()
        return F.cross_entropy((15 * torch.tanh(logits / 15)).flatten(0, 1), targets.flatten())


@torch.compile(dynamic=False, fullgraph=True)
def adamw(p: Tensor, grad: Tensor, first: Tensor, second: Tensor, settings: Tensor) -> None:
    """One parameter's AdamW. `settings`: step, lr, beta1, beta2, eps, decay, as a tensor so that nothing is compiled twice."""
    step, lr, beta1, beta2, eps, decay = settings.unbind()
    wide, g = p.float() * (1 - lr * decay), grad.float()
    m, v = torch.lerp(first.float(), g, 1 - beta1), torch.lerp(second.float(), g.square(), 1 - beta2)
    root = (v / (1 - beta2**step)).sqrt() + eps
    p.copy_(wide - lr / (1 - beta1**step) * m / root)
    first.copy_(m)
    second.copy_(v)


@torch.compile(dynamic=False, fullgraph=True)
def muon(weights: Tensor, grads: Tensor, velocity: Tensor, second: Tensor, settings: Tensor, bf16: bool) -> None:
    """Muon for all matrices of one shape. `settings`: lr, momentum, beta2, decay. Shapes: (n, rows, columns)"""
    lr, momentum, beta2, decay = settings.unbind()
    rows, columns = weights.shape[-2:]
    velocity.lerp_(grads, 1 - momentum)
    x = grads.lerp(velocity, momentum)
    x = x.bfloat16() if bf16 else x
    size = x.float().norm(dim=-1, keepdim=True).clamp_min(1e-6)
    x = x * (x.float().norm(dim=(-2, -1), keepdim=True) / rows**0.5 / size).to(x.dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-6)
    for a, b, c in POLAR:
        gram = x.mT @ x if rows > columns else x @ x.mT
        mixed = b * gram + c * (gram @ gram)
        x = a * x + (x @ mixed if rows > columns else mixed @ x)
    g = x.float()
    g = g * (min(rows, columns) ** 0.5 / g.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-6))
    along = -1 if rows >= columns else -2
    mean = g.square().mean(dim=along, keepdim=True)
    second.lerp_(mean, 1 - beta2)
    factor = second.clamp_min(1e-10).rsqrt()
    before = mean.sum(dim=(-2, -1), keepdim=True).sqrt()
    after = (mean * factor.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    g = g * factor * (before / after.clamp_min(1e-10))
    weights.sub_(lr * g + lr * decay * weights * (g * weights >= 0))


class MuonAdamW:
    """nanochat's optimizer with its course: warm-up 40, linear fall over the last 65%, momentum and decay with courses of their own."""

    def __init__(self, model: Model, task: Task) -> None:
        tokens = task.rows * task.seq_len
        scale = (tokens / 2**19) ** 0.5
        small = scale * (task.d_model / 768) ** -0.5
        self.steps, self.bf16, self.step = task.steps, task.bf16, 0
        reference = 12 * 12 * 768**2 + task.vocab_size * 768
        mine = sum(p.numel() for p in model.blocks.parameters()) + model.head.weight.numel()
        self.decay = 0.28 * scale * reference / mine
        self.matrix_lr = 0.02 * scale
        named = (
            (model.head.parameters(), 0.008 * small, 0.8, 0.96, 0.01),
            (model.tokens.parameters(), 0.3 * small, 0.8, 0.995, 0.001),
            (model.values.parameters(), 0.15 * small, 0.8, 0.995, 0.01),
            ((model.residual,), 0.005 * scale, 0.8, 0.95, 0.05),
            ((model.first,), 0.5 * scale, 0.96, 0.95, 0.0),
            ((model.smear_gate.weight, model.smear, model.backout), 0.2, 0.8, 0.95, 0.0),
        )
        self.small = [(p, torch.zeros_like(p), torch.zeros_like(p), lr, b1, b2, decay) for ps, lr, b1, b2, decay in named for p in ps]
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for p in model.blocks.parameters():
            shapes.setdefault(p.shape, []).append(p)
        self.matrices = [(ps, *self._state(ps)) for ps in shapes.values()]

    @staticmethod
    def _state(ps: Sequence[nn.Parameter]) -> tuple[Tensor, Tensor]:
        n, rows, columns = len(ps), *ps[0].shape
        second = (n, rows, 1) if rows >= columns else (n, 1, columns)
        return ps[0].new_zeros(n, rows, columns), ps[0].new_zeros(second)

    @torch.no_grad()
    def update(self) -> None:
        step, falling = self.step, round(0.65 * self.steps)
        left = min(1.0, (self.steps - step) / max(1, falling))
        scale = min(1.0, (step + 1) / 40) * (left + (1 - left) * 0.05)
        momentum = 0.85 + 0.12 * min(1.0, step / 400) if left == 1.0 else 0.97 * left + 0.90 * (1 - left)
        decay = self.decay * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        for p, first, second, lr, beta1, beta2, own in self.small:
            assert p.grad is not None
            adamw(p, p.grad, first, second, torch.tensor([step + 1, lr * scale, beta1, beta2, 1e-10, own]))
        for ps, velocity, second in self.matrices:
            weights = torch.stack(list(ps))
            rows, columns = weights.shape[-2:]
            lr = self.matrix_lr * scale * max(1.0, rows / columns) ** 0.5
            grads = torch.stack([p.grad for p in ps if p.grad is not None])
            muon(weights, grads, velocity, second, torch.tensor([lr, momentum, 0.9, decay]), self.bf16)
            torch._foreach_copy_(list(ps), list(weights.unbind()))
        self.step += 1


class Nanochat:
    """Its loop: loss, backward, optimizer; bf16 by its own casts."""

    def __init__(self, task: Task) -> None:
        self.model = Model(task).to(task.device)
        self.forward: Callable[..., Tensor] = torch.compile(self.model, dynamic=False) if task.compiled else self.model
        self.optimizer = MuonAdamW(self.model, task)

    def train(self, inputs: Tensor, targets: Tensor) -> None:
        loss = self.forward(inputs, targets)
        loss.backward()
        self.optimizer.update()
        self.model.zero_grad(set_to_none=True)
        loss.item()

    @torch.no_grad()
    def loss(self, inputs: Tensor, targets: Tensor) -> float:
        return self.model(inputs, targets).item()
