"""The loss scale that fp16 needs. In: gradients of a scaled loss. Out: true gradients, or that they overflowed. Next: loop.

Gradients below 6e-8 are zero in fp16. So the loss is multiplied by a power of two before the backward pass and the gradients, which are
fp32 like the weights, divided by it afterwards: exact both times.
Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn

SMALLEST, LARGEST = 1.0, 2.0**40


@dataclass
class LossScaler:
    """A scale that doubles after `patience` updates in a row and halves when gradients overflow; part of every checkpoint."""

    scale: float = 2.0**16
    good_steps: int = 0
    """Updates since the scale last changed."""
    overflows: int = 0
    """Times a step was thrown away, to be tried again at half the scale."""
    patience: int = 2000

    def unscale(self, model: nn.Module) -> None:
        """Divide all gradients by the scale."""
        torch._foreach_mul_([p.grad for p in model.parameters() if p.grad is not None], 1.0 / self.scale)

    def overflowed(self, loss: float, grad_norm: float) -> bool:
        """Whether it is the scale that made gradients infinite; then halve it. A loss that is not finite is no fault of the scale's."""
        if math.isfinite(grad_norm) or not math.isfinite(loss) or self.scale <= SMALLEST:
            return False
        self.scale, self.good_steps, self.overflows = self.scale / 2.0, 0, self.overflows + 1
        return True

    def note_good(self) -> None:
        """Count an update."""
        self.good_steps += 1
        if self.good_steps >= self.patience and self.scale < LARGEST:
            self.scale, self.good_steps = self.scale * 2.0, 0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)
