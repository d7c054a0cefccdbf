"""Polynomials that make matrices orthogonal: where singular values end, by numbers and by matrices."""

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.optim.orthogonal import _BEST, NEWTON_SCHULZ, POLAR_EXPRESS, POLYNOMIALS, orthogonalise


def applied(values: np.ndarray, polynomials: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    for a, b, c in polynomials:
        values = a * values + b * values**3 + c * values**5
    return values


def with_singular_values(values: Tensor, rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator))[0]
    return left * values @ right.mT


def test_the_table_is_the_best_of_its_kind() -> None:
    """Without the safety factor the error over all values is the same above and below 1, the mark of a best approximation."""
    found = applied(np.geomspace(1e-3, 1, 200_001), _BEST)
    assert found.max() - 1 == pytest.approx(1 - found.min(), abs=1e-6) and found.max() == pytest.approx(1.12356, abs=1e-5)


@pytest.mark.parametrize(("polynomials", "low", "high"), [(NEWTON_SCHULZ, 0.47, 1.21), (POLAR_EXPRESS, 0.84, 1.13)])
def test_the_stated_bands(polynomials: tuple[tuple[float, float, float], ...], low: float, high: float) -> None:
    found = applied(np.geomspace(1e-3, 1, 200_001), polynomials)
    assert low < found.min() < low + 0.01 and high - 0.01 < found.max() < high


@pytest.mark.parametrize("shape", [(64, 64), (48, 128), (128, 48)])
@pytest.mark.parametrize("spectrum", ["random", "falling", "ill-conditioned"])
def test_polar_express_comes_closer_than_newton_schulz(shape: tuple[int, int], spectrum: str) -> None:
    """Down to a hundredth of the largest all values end in the stated bands; below a thousandth of the norm they may not get there."""
    n, generator = min(shape), torch.Generator().manual_seed(1)
    values = {
        "random": 0.05 + 0.95 * torch.rand(n, generator=generator),
        "falling": torch.logspace(0, -2, n),
        "ill-conditioned": torch.logspace(0, -6, n),
    }[spectrum]
    matrices = torch.stack([with_singular_values(1e3 * values, *shape, seed) for seed in range(3)])
    error: dict[str, float] = {}
    for name, polynomials in POLYNOMIALS.items():
        found = torch.linalg.svdvals(orthogonalise(matrices, polynomials))
        low, high = {"newton_schulz": (0.4, 1.3), "polar_express": (0.78, 1.2)}[name]  # bf16 widens the bands
        assert found.max() < high and (found.min() > low or spectrum == "ill-conditioned"), name
        error[name] = (found - 1).square().mean().sqrt().item()
    assert error["polar_express"] < (0.9 if spectrum == "ill-conditioned" else 0.75) * error["newton_schulz"]


@pytest.mark.parametrize("polynomials", POLYNOMIALS.values(), ids=POLYNOMIALS)
def test_what_is_left_is_the_polar_factor_and_its_size_does_not_matter(polynomials: tuple[tuple[float, float, float], ...]) -> None:
    matrix = with_singular_values(torch.tensor([1.0, 0.5, 0.2, 0.1]), 12, 4, 3)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix[None], polynomials)[0]
    assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), 0) > 0.97
    assert torch.equal(orthogonalise(1024 * matrix[None], polynomials)[0], found)


def test_a_matrix_of_zeros_stays_one() -> None:
    assert torch.equal(orthogonalise(torch.zeros(2, 4, 8), POLAR_EXPRESS), torch.zeros(2, 4, 8))


def test_a_batch_is_its_matrices() -> None:
    matrices = torch.randn(5, 24, 40, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalise(matrices), alone, atol=4e-3, rtol=2e-2)
