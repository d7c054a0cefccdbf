"""A training of seconds that several tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.config.training import OptimSection
from luthier.model.decoder import Decoder, initialise
from luthier.optim.build import build_optimizer
from luthier.pack.loader import IGNORE_INDEX, Loader
from luthier.train.loop import Course, Every, Trainee, fit
from luthier.train.objective import NextToken
from luthier.train.stopping import StopRequest
from tests.small import small_shape


class Rows:
    """Forty rows of a pattern that can be learned; some targets do not count."""

    n_rows, seq_len = 40, 16

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray, None]:
        tokens = (np.arange(17, dtype=np.int64) * (index % 5 + 1) + index) % 97
        targets = tokens[1:].copy()
        targets[: index % 7] = IGNORE_INDEX
        return tokens[:-1], targets, None


def trainee(optimizer: str = "muon", micro: int = 8) -> Trainee:
    model = Decoder(small_shape(init_std=0.05))
    initialise(model, 5)
    return Trainee(model, build_optimizer(model, OptimSection(name=optimizer, lr=5e-3)), micro)  # type: ignore[arg-type]


def train(
    who: Trainee,
    steps: int,
    hooks: list[Every] | None = None,
    stop: StopRequest | None = None,
    objective: NextToken | None = None,
    **course: Any,
) -> list[float]:
    """Train to `steps`; return the losses of the updates made."""
    losses: list[float] = []
    plan = Course(steps, lambda step: 1.0 - step / 30, 1.0, "cpu", **course)
    recording = Every(1, lambda moment: losses.append(moment.loss))
    fit(who, Loader(Rows(), 8, seed=1), objective or NextToken(), plan, [recording, *(hooks or [])], stop or StopRequest())
    return losses
