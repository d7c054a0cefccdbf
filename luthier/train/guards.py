"""What must hold before an update. In: loss and gradients of a step. Out: nothing, or a typed error. Next: loop."""

from __future__ import annotations

import math

import torch
from torch import nn

from luthier.errors import NumericsError


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale all gradients so that their global norm is at most `largest`; return the norm before."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm.item()


def require_finite(model: nn.Module, step: int, loss: float, grad_norm: float) -> None:
    """Refuse to update with a loss or a gradient that is not finite; the weights are untouched by then.

    Raises: NumericsError naming the step and the first parameter with a bad gradient.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    broken = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    where = f"weight {broken[0]}" if broken else f"gradient of {bad[0]}" if bad else "the loss"
    raise NumericsError(
        f"step {step}: loss {loss}, gradient norm {grad_norm}; first seen in the {where}; the update was not made",
        fix="lower optim.lr or lengthen optim.warmup_steps; the last checkpoint is intact",
    )


def require_master_weights(model: nn.Module) -> None:
    """Check that weights are fp32, so that small updates are not rounded away.

    Raises: NumericsError
    """
    wrong = {name: p.dtype for name, p in model.named_parameters() if p.dtype != torch.float32}
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise NumericsError(f"{name} has type {dtype}; weights are trained in fp32, only products run in {dtype}")
