"""stub by LEAD until PARALLEL's file is there; overwrite freely"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    rank: int
    size: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def add_up(self, model: nn.Module, scalars: Sequence[float]) -> list[float]:
        return list(scalars)

    def share(self, tensors: Mapping[str, Tensor], value: Any) -> Any:
        return value


ALONE = World(0, 1)


@contextlib.contextmanager
def joined(device: str) -> Generator[World, None, None]:
    yield ALONE
