"""Which parameter goes to which optimizer. In: a model and `[optim]`. Out: one optimizer. Next room: train."""

from __future__ import annotations

from torch import nn

from luthier.config.training import OptimSection
from luthier.optim.optimizers import AdamW, Muon, Optimizer, Together


def build_optimizer(model: nn.Module, settings: OptimSection) -> Optimizer:
    """Give every parameter to exactly one optimizer.

    Muon takes the matrices of the blocks; embeddings, the head and norms go to AdamW.
    """
    everything = dict(model.named_parameters())
    matrices = {name: p for name, p in everything.items() if p.ndim == 2 and name.startswith("layers.")}
    if settings.name == "adamw" or not matrices:
        return AdamW(everything, settings.lr, settings.betas, settings.eps, settings.weight_decay)
    rest = {name: p for name, p in everything.items() if name not in matrices}
    return Together(
        Muon(matrices, settings.muon_lr, settings.weight_decay),
        AdamW(rest, settings.lr, settings.betas, settings.eps, settings.weight_decay),
    )
