"""AdamW and Muon. In: named parameters with gradients. Out: updated parameters; state as named tensors. Next room: train.

State is a flat dict of tensors, so that a checkpoint holds it without pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class Optimizer(Protocol):
    """What the training loop knows of an optimizer."""

    def step(self, lr_scale: float) -> None:
        """Update the parameters; `lr_scale` is the schedule's factor of the peak learning rate."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        ...


class AdamW:
    """Adam with decoupled weight decay on matrices only.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        self._parameters = dict(parameters)
        self._lr, self._betas, self._eps, self._weight_decay = lr, betas, eps, weight_decay
        self._first = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self._second = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self._steps = 0

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        self._steps += 1
        lr = self._lr * lr_scale
        beta1, beta2 = self._betas
        weights: list[Tensor] = list(self._parameters.values())
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in weights]
        first, second = list(self._first.values()), list(self._second.values())
        decayed = [p for p in weights if p.ndim >= 2]
        if self._weight_decay and decayed:
            torch._foreach_mul_(decayed, 1.0 - lr * self._weight_decay)
        torch._foreach_lerp_(first, gradients, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - beta2)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, (1.0 - beta2**self._steps) ** 0.5)
        torch._foreach_add_(root, self._eps)
        torch._foreach_addcdiv_(weights, first, root, -lr / (1.0 - beta1**self._steps))

    def state(self) -> dict[str, Tensor]:
        first = {f"adamw.first.{name}": value for name, value in self._first.items()}
        second = {f"adamw.second.{name}": value for name, value in self._second.items()}
        return {**first, **second, "adamw.steps": torch.tensor(self._steps)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name in self._parameters:
            self._first[name].copy_(state[f"adamw.first.{name}"])
            self._second[name].copy_(state[f"adamw.second.{name}"])
        self._steps = int(state["adamw.steps"])


class Muon:
    """Momentum whose update of every matrix is orthogonalised; for the blocks' matrices only.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the factor 0.2 sqrt(max(rows, columns)), which gives its
    updates AdamW's size so that they share AdamW's decay, is of Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95, rounds: int = 5
    ) -> None:
        self._parameters = dict(parameters)
        self._lr, self._weight_decay, self._momentum, self._rounds = lr, weight_decay, momentum, rounds
        self._velocity = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self._shapes: dict[tuple[int, ...], list[str]] = {}
        for name, p in self._parameters.items():
            self._shapes.setdefault(tuple(p.shape), []).append(name)

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        lr = self._lr * lr_scale
        for shape, names in self._shapes.items():
            gradients = [self._gradient(name) for name in names]
            velocity = [self._velocity[name] for name in names]
            torch._foreach_lerp_(velocity, gradients, 1.0 - self._momentum)
            ahead = torch._foreach_lerp(gradients, velocity, self._momentum)  # Nesterov: look one step ahead
            updates = orthogonalise(torch.stack(list(ahead)), self._rounds)  # (n, rows, columns)
            scale = 0.2 * max(shape) ** 0.5
            for name, update in zip(names, updates, strict=True):
                weight = self._parameters[name]
                weight.mul_(1.0 - lr * self._weight_decay).add_(update.to(weight.dtype), alpha=-lr * scale)

    def _gradient(self, name: str) -> Tensor:
        p = self._parameters[name]
        return p.grad if p.grad is not None else torch.zeros_like(p)

    def state(self) -> dict[str, Tensor]:
        return {f"muon.velocity.{name}": value for name, value in self._velocity.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self._velocity.items():
            value.copy_(state[f"muon.velocity.{name}"])


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Move all singular values of each matrix close to 1 by Newton-Schulz iterations of degree five, in bf16.

    Shapes: (n, rows, columns) -> (n, rows, columns)
    Source: Jordan et al. 2024 (see `Muon`) for the three coefficients.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT  # (n, rows, rows)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Together:
    """Several optimizers, each with parameters of its own, stepped as one."""

    def __init__(self, *parts: Optimizer) -> None:
        self._parts = parts

    def step(self, lr_scale: float) -> None:
        for part in self._parts:
            part.step(lr_scale)

    def state(self) -> dict[str, Tensor]:
        return {name: value for part in self._parts for name, value in part.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for part in self._parts:
            part.load_state(state)
