"""One rank of a small training, started by the tests: `python -m tests.train.ranks STEPS [DIE_AT]`; prints one JSON object."""

from __future__ import annotations

import json
import os
import signal
import sys

import torch

from luthier.errors import LuthierError
from luthier.model.weights import weights_sha256
from luthier.pack.loader import Batch
from luthier.train.loop import Every, Moment, Trainee
from luthier.train.objective import NextToken
from luthier.train.parallel import joined
from tests.train.small_training import train, trainee


def run(steps: int, die_at: int | None) -> dict[str, object]:
    tokens: list[list[int]] = []

    class Seeing(NextToken):
        def __call__(self, forward: object, head: object, rows: Batch, n_targets: int) -> torch.Tensor:
            tokens.append(rows.inputs.flatten().tolist())
            return super().__call__(forward, head, rows, n_targets)  # type: ignore[arg-type]

    def die(moment: Moment) -> None:
        if moment.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    with joined("cpu", minutes=1) as world:
        who: Trainee = trainee("adamw")
        told = world.share({"x": (x := torch.full((3,), float(world.rank)))}, {"from": world.rank})
        hooks = [Every(1, die)] if world.rank == 1 else []
        losses = train(who, steps, hooks, objective=Seeing(), world=world)
    return {"tokens": tokens, "losses": losses, "told": told, "x": x.tolist(), "sha256": weights_sha256(who.model.state_dict())}


if __name__ == "__main__":
    try:
        print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)))
    except LuthierError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
