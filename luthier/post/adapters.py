"""Low-rank adapters. In: a model, a rank. Out: an optimizer that moves chosen matrices only by products of two thin ones. Next: stages.

The weight of an adapted map is W0 + (alpha / rank) B A at all times, so a checkpoint, an evaluation and an export see plain weights, and
merging is never needed. A's and B's gradients follow from W's, exactly: dB = s G A^T, dA = s B^T G. What is not adapted stays as it is.
Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from luthier.config.sft import LoraSection
from luthier.config.training import OptimSection
from luthier.errors import ConfigError
from luthier.model.weights import load_tensors
from luthier.optim.optimizers import AdamW


class LowRank:
    """AdamW on the factors of each adapted matrix; an `Optimizer` of the loop.

    `grad_clip` bounds the norm of the whole model's gradient, not that of the factors.
    """

    def __init__(self, model: nn.Module, settings: LoraSection, optim: OptimSection, seed: int) -> None:
        """The weights that the model has now are W0; every attempt begins with the same.

        Raises: ConfigError when no matrix has one of the names
        """
        self._weights = {name: p for name, p in model.named_parameters() if p.ndim == 2 and name.split(".")[-2] in settings.lora_targets}
        if not self._weights:
            raise ConfigError(f"lora_targets: the model has no map named {', '.join(settings.lora_targets)}")
        self._before = {name: p.detach().clone() for name, p in self._weights.items()}
        self._scale = settings.lora_alpha / settings.lora_rank
        draw = torch.Generator().manual_seed(seed)
        self.factors: dict[str, nn.Parameter] = {}
        for name, p in self._weights.items():
            rows, columns = p.shape
            first = torch.empty(settings.lora_rank, columns).uniform_(-(columns**-0.5), columns**-0.5, generator=draw)
            self.factors[f"{name}.A"] = nn.Parameter(first.to(p.device))  # (rank, columns)
            self.factors[f"{name}.B"] = nn.Parameter(torch.zeros(rows, settings.lora_rank, device=p.device))  # (rows, rank)
        self._adamw = AdamW(self.factors, optim.lr, optim.betas, optim.eps, 0.0)

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        """Update the factors by the gradients of the weights, and the weights by the factors."""
        for name, p in self._weights.items():
            a, b = self.factors[f"{name}.A"], self.factors[f"{name}.B"]
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            a.grad, b.grad = self._scale * (b.t() @ gradient), self._scale * (gradient @ a.t())
        self._adamw.step(lr_scale)
        for name, p in self._weights.items():
            torch.addmm(self._before[name], self.factors[f"{name}.B"], self.factors[f"{name}.A"], alpha=self._scale, out=p.data)

    def state(self) -> dict[str, Tensor]:
        """The factors and their moments."""
        return {**{f"lora.{name}": p.data for name, p in self.factors.items()}, **self._adamw.state()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave; the weights are the checkpoint's."""
        for name, p in self.factors.items():
            p.copy_(state[f"lora.{name}"])
        self._adamw.load_state(state)


def low_rank(settings: LoraSection, seed: int) -> Callable[[nn.Module, OptimSection], LowRank] | None:
    """What makes a training's optimizer, where adapters are asked for."""
    return (lambda model, optim: LowRank(model, settings, optim, seed)) if settings.lora_rank else None


def saved_factors(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors A and B of each adapted weight, by the weight's name, in a file that has what `LowRank.state` gave.

    Shapes: (rank, in), (out, rank)
    Raises: CheckpointError when the file is missing or damaged
    """
    saved = load_tensors(path)
    names = [name.removesuffix(".A") for name in saved if name.startswith("lora.") and name.endswith(".A")]
    return {name.removeprefix("lora."): (saved[f"{name}.A"], saved[f"{name}.B"]) for name in names}
