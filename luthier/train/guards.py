"""What must hold before an update. In: loss and gradients of a step. Out: a verdict, and where a fault first shows. Next: loop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from luthier.errors import HardwareFailure, NumericsError

WINDOW = 64
"""Losses that the next one is compared with."""
ENOUGH = 16
"""Losses before which there is nothing to compare with."""
Trouble = Literal["nonfinite", "spike"]


@dataclass
class Health:
    """What past steps say about the next one; part of every checkpoint."""

    window: list[float] = field(default_factory=list)
    """The last losses, oldest first."""
    bad_in_a_row: int = 0
    last_bad_step: int = -1
    skipped: int = 0
    spikes: int = 0
    rollbacks: int = 0

    def judge(self, loss: float, grad_norm: float, deviations: float) -> Trouble | None:
        """Say what is wrong with a step, if anything. A spike is `deviations` robust standard deviations above the median."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return "nonfinite"
        if len(self.window) < ENOUGH:
            return None
        median = statistics.median(self.window)
        deviation = 1.4826 * statistics.median(abs(past - median) for past in self.window)
        return "spike" if loss > median + max(deviations * deviation, 0.1 * abs(median)) else None

    def note_good(self, step: int, loss: float) -> None:
        """Remember the loss of an update; past the last bad step, the count of bad ones begins anew."""
        self.window = [*self.window[1 - WINDOW :], loss]
        if step > self.last_bad_step:
            self.bad_in_a_row = 0

    def note_bad(self, step: int) -> None:
        """Count a step whose update was not made."""
        self.bad_in_a_row += 1
        self.last_bad_step = max(step, self.last_bad_step)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale all gradients so that their global norm is at most `largest`; return the norm before."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm.item()


def first_nonfinite(model: nn.Module, losses: Iterator[Tensor]) -> str:
    """Name where values stop being finite: a weight, a module's output in the forward pass, or a gradient in the backward pass.

    `losses` computes the step again, one micro-batch after the other, by `model` itself.
    """
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            return f"weight {name}"
    seen: list[str] = []
    names = {module: name or "the model" for name, module in model.named_modules()}

    def watch(what: str, value: Tensor) -> None:
        if not torch.isfinite(value).all():
            seen.append(what)

    def after(module: nn.Module, arguments: object, output: object) -> None:
        if isinstance(output, Tensor):
            watch(f"output of {names[module]}", output.detach())
            if output.requires_grad:
                output.register_hook(lambda gradient: watch(f"gradient at the output of {names[module]}", gradient))

    handles = [module.register_forward_hook(after) for module in names]
    handles += [p.register_hook(lambda gradient, n=name: watch(f"gradient of {n}", gradient)) for name, p in model.named_parameters()]
    try:
        for loss in losses:
            if not seen:
                watch("the loss", loss.detach())
            if not seen:
                loss.backward()
            if seen:
                break
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return seen[0] if seen else "nothing: computed again, all is finite (a faulty chip, or another rank's rows)"


def require_same_gradients(model: nn.Module, before: Sequence[Tensor | None], step: int, losses: tuple[float, float]) -> None:
    """Compare a step's gradients with those of the same step computed before, bit by bit.

    Raises: HardwareFailure naming the first parameter that differs
    """
    for (name, p), old in zip(model.named_parameters(), before, strict=True):
        same = p.grad is old if p.grad is None or old is None else torch.equal(_bits(p.grad), _bits(old))
        if not same:
            raise HardwareFailure(
                f"step {step + 1}: computed twice, the gradient of {name} differs; the processor or its memory makes silent errors",
                fix="go on from the last checkpoint on another machine, and have this one tested",
            )
    if losses[0] != losses[1] and not (math.isnan(losses[0]) and math.isnan(losses[1])):
        raise HardwareFailure(f"step {step + 1}: computed twice, the loss differs: {losses[0]!r} and {losses[1]!r}")


def _bits(tensor: Tensor) -> Tensor:
    """A tensor as bytes, so that NaN equals itself and 0.0 does not equal -0.0."""
    return tensor.detach().contiguous().view(torch.uint8)


def require_master_weights(model: nn.Module) -> None:
    """Check that weights are fp32, so that small updates are not rounded away.

    Raises: NumericsError
    """
    wrong = {name: p.dtype for name, p in model.named_parameters() if p.dtype != torch.float32}
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise NumericsError(f"{name} has type {dtype}; weights are trained in fp32, only products run in {dtype}")
