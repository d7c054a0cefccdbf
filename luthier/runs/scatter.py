"""Numbers of 64 bits, scattered. In: numbers. Out: others, one for each, that look like chance. Next: orders of rows and documents."""

from __future__ import annotations

import numpy as np


def scatter_bits(values: np.ndarray) -> np.ndarray:
    """Scatter the bits of each number; no two become one.

    Shapes: any uint64, the same out as in
    Source: the finaliser of splitmix64; Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
