"""Moving a matrix's singular values towards 1. In: matrices, polynomials. Out: matrices of the same shape. Next: optimizers.

x -> a x + b (x x^T) x + c (x x^T)^2 x applies the odd polynomial a s + b s^3 + c s^5 to every singular value s and needs products alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.config.training import MuonPolynomial

Coefficients = tuple[float, float, float]
"""a, b and c of one round."""

NEWTON_SCHULZ: tuple[Coefficients, ...] = ((3.4445, -4.7750, 2.0315),) * 5
"""Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; values from 0.001 of the norm on end in 0.47 to 1.21."""

_BEST: tuple[Coefficients, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
_SAFETY = 1.01
POLAR_EXPRESS: tuple[Coefficients, ...] = tuple((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _BEST)
"""A polynomial of its own for each round, the best in its place; values from 0.001 of the norm on end in 0.84 to 1.13.

The safety factor leaves room for values that bf16's rounding puts above 1.
Source: Amsel et al. 2025, arXiv:2505.16932, algorithm 1 (degree 5, smallest value 0.001).
"""

POLYNOMIALS: dict[MuonPolynomial, tuple[Coefficients, ...]] = {"newton_schulz": NEWTON_SCHULZ, "polar_express": POLAR_EXPRESS}


def orthogonalise(matrices: Tensor, polynomials: Sequence[Coefficients] = NEWTON_SCHULZ) -> Tensor:
    """Move all singular values of each matrix close to 1, in bf16; what a matrix is multiplied by does not matter.

    Shapes: (n, rows, columns) -> (n, rows, columns)
    """
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT  # (n, columns, rows)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in polynomials:
        gram = x @ x.mT  # (n, rows, rows), of the smaller side
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # a x + (b gram + c gram^2) x
    return (x.mT if tall else x).to(matrices.dtype)
