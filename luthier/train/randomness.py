"""Every source of randomness in the process. In: generators' states. Out: named tensors, or the states again. Next: checkpoint.

Training itself draws from none of them but torch's; the others are there for hooks and graders that do.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Put all generators to where a training of this seed begins."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state() -> dict[str, Tensor]:
    """States of torch's, CUDA's, NumPy's and Python's generators."""
    version, words, gauss = random.getstate()
    _, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "rng.torch": torch.get_rng_state(),
        "rng.python": torch.tensor([version, *words], dtype=torch.int64),
        "rng.python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "rng.numpy": torch.tensor([*(int(word) for word in key), position, has_gauss], dtype=torch.int64),
        "rng.numpy.gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Put all generators back to where `random_state` found them."""
    torch.set_rng_state(state["rng.torch"])
    version, *words = state["rng.python"].tolist()
    gauss = state["rng.python.gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *key, position, has_gauss = state["rng.numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, np.uint32), position, has_gauss, state["rng.numpy.gauss"].item()))
    if "rng.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng.cuda"])
