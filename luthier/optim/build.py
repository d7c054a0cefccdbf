"""Which parameter goes to which optimizer. In: a model and `[optim]`. Out: one optimizer. Next room: train."""

from __future__ import annotations

from torch import nn

from luthier.config.training import OptimSection
from luthier.optim.optimizers import AdamW, Muon, Optimizer, Together
from luthier.optim.orthogonal import POLYNOMIALS


def build_optimizer(model: nn.Module, settings: OptimSection) -> Optimizer:
    """Give every parameter to exactly one optimizer.

    Muon takes the matrices of the blocks; embeddings, the head and norms go to AdamW. A head that is tied is an embedding.
    """
    everything = dict(model.named_parameters())
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    undecayed = frozenset[str]() if settings.decay_embeddings else embeddings

    def adamw(parameters: dict[str, nn.Parameter]) -> AdamW:
        return AdamW(parameters, settings.lr, settings.betas, settings.eps, settings.weight_decay, undecayed)

    matrices = {name: p for name, p in everything.items() if p.ndim == 2 and name.startswith("layers.") and name not in embeddings}
    if settings.name == "adamw" or not matrices:
        return adamw(everything)
    rest = {name: p for name, p in everything.items() if name not in matrices}
    muon = Muon(matrices, settings.muon_lr, settings.weight_decay, polynomials=POLYNOMIALS[settings.muon_polynomial])
    return Together(muon, adamw(rest))
