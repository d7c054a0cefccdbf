"""What objectives of pairs have in common: how a step's pairs are counted and their figures added up. Next: preference, reward."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from luthier.pack.loader import IGNORE_INDEX, Batch


class PairMeasures:
    """Counts the pairs of a batch and adds up what they show, each measure as this rank's share of its mean."""

    measures: tuple[str, ...] = ()

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Figures are kept on `device`."""
        self._sums = torch.zeros(len(self.measures), device=device)

    def count(self, batch: Batch) -> int:
        """The pairs of a batch."""
        assert batch.doc_ids is not None
        return len(np.unique(batch.doc_ids[batch.targets != IGNORE_INDEX])) // 2

    def begin(self) -> None:
        """Forget the figures of the step before."""
        self._sums.zero_()

    def sums(self) -> list[float]:
        """This rank's share of each measure's mean."""
        return self._sums.tolist()

    def note(self, shown: tuple[Tensor, ...], n_pairs: int) -> None:
        """Add a micro-batch's figures, a value for each pair, to the means over `n_pairs`."""
        self._sums += torch.stack([values.float().sum() for values in shown]).to(self._sums.device) / max(1, n_pairs)
