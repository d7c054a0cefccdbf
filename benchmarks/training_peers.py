"""The peers of the training benchmark: their models and loops behind one door. In: a task. Out: a peer that trains and evaluates.

litgpt and `transformers` are the installed packages. nanoGPT and nanochat are no packages: what stands here was written anew, with plain
torch, from what they publish (github.com/karpathy/nanoGPT of November 2025, github.com/karpathy/nanochat of July 2026): their
architecture, their optimizer, their loop. This file runs in the peers' own environment and imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """What is to be trained and how; `d_ff` is SwiGLU's width, peers with two matrices in their MLP take 3/2 of it."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    seq_len: int
    rows: int
    steps: int
    compiled: bool
    bf16: bool
    device: str = "cpu"
    n_kv_heads: int | None = None
    head_dim: int | None = None
    lr: float | None = None
    """Peak learning rate; default: the peer's own."""
    beta2: float = 0.95
    hidden: int | None = None

    @property
    def mlp(self) -> int:
        """Width of an MLP of two matrices."""
        return self.hidden or self.d_ff * 3 // 2


class Peer(Protocol):
    """A model in training."""

    def train(self, inputs: Tensor, targets: Tensor) -> None:
        """Make one update. Shapes: (B, T), (B, T)"""
        ...

    def loss(self, inputs: Tensor, targets: Tensor) -> float:
        """Mean loss, without training. Units: nats per token"""
        ...


def cosine(step: int, peak: float, warmup: int, steps: int, least: float) -> float:
    """Linear warm-up and cosine decay, as nanoGPT and litgpt have them."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return least + 0.5 * (1.0 + math.cos(math.pi * progress)) * (peak - least)


def autocast(task: Task) -> Any:
    """Run products in bf16 where the task says so."""
    return torch.autocast(task.device, dtype=torch.bfloat16) if task.bf16 else contextlib.nullcontext()


class Transformers:
    """`LlamaForCausalLM` with the usual loop: autocast, loss by labels, clip to 1, AdamW as its `Trainer` makes it (fused)."""

    def __init__(self, task: Task) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=task.vocab_size,
            hidden_size=task.d_model,
            intermediate_size=task.d_ff,
            num_hidden_layers=task.n_layers,
            num_attention_heads=task.n_heads,
            num_key_value_heads=task.n_kv_heads or task.n_heads,
            head_dim=task.head_dim or task.d_model // task.n_heads,
            max_position_embeddings=task.seq_len,
            tie_word_embeddings=True,
            use_cache=False,
        )
        self.task, self.step = task, 0
        self.model = LlamaForCausalLM(config).to(task.device)
        self.forward: Callable[..., Any] = torch.compile(self.model) if task.compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=task.lr or 5e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def train(self, inputs: Tensor, targets: Tensor) -> None:
        with autocast(self.task):
            loss = self.forward(input_ids=inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()

    @torch.no_grad()
    def loss(self, inputs: Tensor, targets: Tensor) -> float:
        with autocast(self.task):
            logits = self.model(input_ids=inputs).logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()).item()


class LitGPT:
    """litgpt's `GPT` under Fabric as its `pretrain` sets it up: chunked cross-entropy, AdamW, clip to 1, cosine after warm-up."""

    def __init__(self, task: Task) -> None:
        import lightning as L
        from litgpt.model import GPT, Config
        from litgpt.pretrain import initialize_weights
        from litgpt.utils import chunked_cross_entropy, instantiate_torch_optimizer

        config = Config(
            block_size=task.seq_len, vocab_size=task.vocab_size, padded_vocab_size=task.vocab_size, n_layer=task.n_layers,
            n_head=task.n_heads, n_embd=task.d_model, head_size=task.head_dim or task.d_model // task.n_heads,
            n_query_groups=task.n_kv_heads or task.n_heads, rotary_percentage=1.0, parallel_residual=False, bias=False,
            norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=task.d_ff,
        )  # fmt: skip
        precision: Any = "bf16-mixed" if task.bf16 else "32-true"
        self.fabric = L.Fabric(devices=1, accelerator="cuda" if task.device == "cuda" else "cpu", precision=precision)
        self.fabric.launch()
        with self.fabric.init_module(empty_init=True):
            model = GPT(config)
        initialize_weights(self.fabric, model, n_layer=task.n_layers, n_embd=task.d_model)
        model.transformer.wte.weight = model.lm_head.weight  # litgpt's option `tie_embeddings`, so that sizes are alike
        self.plain = model
        self.model: Any = self.fabric.setup(torch.compile(model) if task.compiled else model)
        optimizer = instantiate_torch_optimizer("AdamW", self.model.parameters(), fused=task.device == "cuda")
        self.optimizer: Any = self.fabric.setup_optimizers(optimizer)
        self.cross_entropy = chunked_cross_entropy
        self.task, self.step, self.peak = task, 0, task.lr or optimizer.defaults["lr"]

    def train(self, inputs: Tensor, targets: Tensor) -> None:
        lr = cosine(self.step, self.peak, min(100, self.task.steps // 10), self.task.steps, self.peak / 10)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.cross_entropy(self.model(inputs), targets)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.detach().item()
        self.step += 1

    @torch.no_grad()
    def loss(self, inputs: Tensor, targets: Tensor) -> float:
        with autocast(self.task):
            logits = self.plain(inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()).item()


class LayerNorm(nn.Module):
    """Layer normalisation with a gain and no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class GPTBlock(nn.Module):
    """GPT-2's block without biases: q, k and v in one product, GELU."""

    def __init__(self, d_model: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = LayerNorm(d_model), LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, hidden, bias=False)
        self.down = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3, self.n_heads, -1))  # (B, T, 3, H, E)
        q, k, v = heads.transpose(1, 3).unbind(2)  # three of (B, H, T, E)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """nanoGPT's model: learned positions, tied head, normal initial weights."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.tokens = nn.Embedding(task.vocab_size, task.d_model)
        self.positions = nn.Embedding(task.seq_len, task.d_model)
        self.blocks = nn.ModuleList(GPTBlock(task.d_model, task.n_heads, task.mlp) for _ in range(task.n_layers))
        self.norm = LayerNorm(task.d_model)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, 0.0, 0.02 / math.sqrt(2 * task.n_layers) if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class NanoGPT:
    """nanoGPT's loop, written anew: AdamW with decay on matrices only, clip to 1, cosine from 1e-3 to 1e-4 after 100 steps."""

    def __init__(self, task: Task) -> None:
        self.task, self.step, self.peak = task, 0, task.lr or 1e-3
        self.model = GPT(task).to(task.device)
        self.forward: Callable[..., Tensor] = torch.compile(self.model) if task.compiled else self.model
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in self.model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.peak, betas=(0.9, task.beta2), fused=task.device == "cuda")

    def train(self, inputs: Tensor, targets: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(self.step, self.peak, min(100, self.task.steps // 10), self.task.steps, self.peak / 10)
        with autocast(self.task):
            loss = self.forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()
        self.step += 1

    @torch.no_grad()
    def loss(self, inputs: Tensor, targets: Tensor) -> float:
        with autocast(self.task):
            return self.model(inputs, targets).item()


def peers() -> dict[str, Callable[[Task], Peer]]:
    """Every peer by name."""
    from training_nanochat import Nanochat  # a file of its own: its optimizer is long

    return {"litgpt": LitGPT, "transformers": Transformers, "nanoGPT": NanoGPT, "nanochat": Nanochat}


CPU_DEFAULTS = {"litgpt": (True, True), "transformers": (False, False), "nanoGPT": (False, False), "nanochat": (True, False)}
"""Compiled? bf16? as each peer's own script does on a CPU when it is told nothing, or as its page says for a CPU (nanoGPT)."""
