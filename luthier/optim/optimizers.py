"""AdamW and Muon. In: named parameters with gradients. Out: updated parameters; state as named tensors. Next room: train.

State is a flat dict of tensors, so that a checkpoint holds it without pickle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from luthier.optim.orthogonal import NEWTON_SCHULZ, Coefficients, orthogonalise


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


@dataclass(frozen=True)
class Group:
    """Parameters that share a weight decay, with their moments, in one order."""

    decay: float
    weights: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]

    def gradients(self) -> list[Tensor]:
        """A parameter that the loss does not reach counts as one with a gradient of zeros."""
        return [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.weights]


class AdamW:
    """Adam with decoupled weight decay, which vectors (norms, biases) never have, nor the matrices named in `undecayed`.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        undecayed: Collection[str] = (),
    ) -> None:
        self._lr, self._betas, self._eps = lr, betas, eps
        self._first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._steps = 0
        self._fused = can_fuse(parameters.values())
        decays = {name: weight_decay if p.ndim >= 2 and name not in undecayed else 0.0 for name, p in parameters.items()}
        self._groups: list[Group] = []
        for decay in dict.fromkeys(decays.values()):
            names = [name for name in parameters if decays[name] == decay]
            moments = [self._first[name] for name in names], [self._second[name] for name in names]
            self._groups.append(Group(decay, [parameters[name] for name in names], *moments))

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        self._steps += 1
        update = self._update_fused if self._fused else self._update
        for group in self._groups:
            update(group.weights, group.gradients(), group.first, group.second, self._lr * lr_scale, group.decay)

    def _update(
        self, weights: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor], lr: float, decay: float
    ) -> None:
        """The algorithm line by line."""
        beta1, beta2 = self._betas
        torch._foreach_mul_(weights, 1.0 - lr * decay)
        torch._foreach_lerp_(first, gradients, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - beta2)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, (1.0 - beta2**self._steps) ** 0.5)
        torch._foreach_add_(root, self._eps)
        torch._foreach_addcdiv_(weights, first, root, -lr / (1.0 - beta1**self._steps))

    def _update_fused(
        self, weights: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor], lr: float, decay: float
    ) -> None:
        """The same in one pass over memory, by PyTorch's kernel."""
        steps = [torch.full((), float(self._steps), device=weights[0].device)] * len(weights)
        fused_adamw(weights, gradients, first, second, steps, lr, self._betas, decay, self._eps)

    def state(self) -> dict[str, Tensor]:
        first = {f"adamw.first.{name}": value for name, value in self._first.items()}
        second = {f"adamw.second.{name}": value for name, value in self._second.items()}
        return {**first, **second, "adamw.steps": torch.tensor(self._steps)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name in self._first:
            self._first[name].copy_(state[f"adamw.first.{name}"])
            self._second[name].copy_(state[f"adamw.second.{name}"])
        self._steps = int(state["adamw.steps"])


def fused_adamw(
    weights: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    eps: float,
) -> None:
    """PyTorch's kernel, which has no name without an underscore that works on lists."""
    torch._fused_adamw_(
        weights,
        gradients,
        first,
        second,
        [],
        steps,
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


def can_fuse(parameters: Iterable[Tensor]) -> bool:
    """Whether PyTorch's fused AdamW takes parameters like these here."""
    kinds = {(p.device, p.dtype) for p in parameters}
    try:
        for device, dtype in kinds:
            one = [torch.zeros(1, device=device, dtype=dtype) for _ in range(4)]
            steps = [torch.ones((), device=device)]
            fused_adamw(one[:1], one[1:2], one[2:3], one[3:], steps, 0.1, (0.9, 0.9), 0.0, 1e-8)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # a device or a torch without it
        return False
    return len(kinds) == 1


class Muon:
    """Momentum whose update of every matrix is orthogonalised; for the blocks' matrices only.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the factor 0.2 sqrt(max(rows, columns)), which gives its
    updates AdamW's size so that they share AdamW's decay, is of Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        polynomials: Sequence[Coefficients] = NEWTON_SCHULZ,
    ) -> None:
        self._parameters = dict(parameters)
        self._lr, self._weight_decay, self._momentum, self._polynomials = lr, weight_decay, momentum, polynomials
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
            updates = orthogonalise(torch.stack(list(ahead)), self._polynomials)  # (n, rows, columns)
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
