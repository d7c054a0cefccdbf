"""What each rank does in the tests of parallel training; see tests/ranks.py."""

from __future__ import annotations

import json
import os
import signal
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from luthier.errors import DataError
from luthier.model.weights import weights_sha256
from luthier.pack.loader import Loader
from luthier.train import parallel
from luthier.train.loop import Course, Every, Moment, fit, step_gradients
from luthier.train.objective import NextToken, Rows
from luthier.train.parallel import ALONE, World, joined
from luthier.train.stopping import StopRequest
from tests.train import small_training
from tests.train.small_training import trainee

STEPS = 5
FAULT_AT = 2


class Seeing(NextToken):
    """An objective that notes which tokens it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[list[int]] = []

    def __call__(self, forward: Any, head_weight: torch.Tensor, rows: Rows, n_targets: int) -> torch.Tensor:
        self.tokens[-1] += rows.inputs.flatten().tolist()
        return super().__call__(forward, head_weight, rows, n_targets)


def part(rank: int, size: int, does: str, **arguments: Any) -> Any:
    torch.set_num_threads(1)
    return {"learn": learn, "differ": differ, "unused": unused, "share": share, "twice": twice, "absent": absent, "restart": restart}[does](
        rank, **arguments
    )


def learn(rank: int, rows_per_step: int = 8, micro: int = 8, fault: str | None = None, minutes: float = 1.0) -> dict[str, Any]:
    """Train a few steps; rank 1 may have a fault in the middle."""
    who, seen, losses = trainee("adamw", micro), Seeing(), list[float]()

    def after(moment: Moment) -> None:
        losses.append(moment.loss)
        seen.tokens.append([])
        if rank == 1 and moment.step == FAULT_AT and fault is not None:
            if fault == "raise":
                raise DataError("this rank's own trouble")
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[fault])

    seen.tokens.append([])
    with joined("cpu", minutes=minutes) as world:
        course = Course(STEPS, lambda step: 1.0 - step / 30, 1.0, "cpu", world)
        fit(who, Loader(small_training.Rows(), rows_per_step, seed=1), seen, course, [Every(1, after)], StopRequest())
    return {"losses": losses, "tokens": seen.tokens[:STEPS], "sha256": weights_sha256(who.model.state_dict())}


def differ(rank: int, bucket_bytes: int) -> dict[str, float]:
    """How far the gradients and the loss of one step are from those of one process."""
    parallel.BUCKET_BYTES = bucket_bytes
    batch = Loader(small_training.Rows(), 8, seed=1).batch(0)

    def gradients(world: World) -> tuple[float, torch.Tensor]:
        who = trainee("adamw")
        loss, _, _ = step_gradients(who, NextToken(), batch, Course(1, lambda step: 1.0, 1.0, "cpu", world), StopRequest())
        assert {p.grad.shape == p.shape and p.grad.is_contiguous() for p in who.model.parameters() if p.grad is not None} == {True}
        return loss, torch.cat([p.grad.flatten() for p in who.model.parameters() if p.grad is not None])

    with joined("cpu") as world:
        loss, together = gradients(world)
    alone_loss, alone = gradients(ALONE)
    assert alone.abs().max() > 0.01
    return {"loss": abs(loss - alone_loss), "gradient": (together - alone).abs().max().item()}


def unused(rank: int) -> dict[str, Any]:
    """Add up where each rank has gradients for one of two weights only, and nobody for the third."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(2, 3)) for _ in range(3)])
    with joined("cpu") as world:
        model[rank].grad = torch.full((2, 3), rank + 1.0)
        sums = world.add_up(model, [rank + 0.25, 2.0])
    return {"gradients": [p.grad.flatten().tolist() for p in model if p.grad is not None], "sums": sums}


def share(rank: int) -> dict[str, Any]:
    tensors = {"b": torch.arange(4.0).reshape(2, 2) + 10 * rank, "a": torch.tensor([rank], dtype=torch.int64), "empty": torch.zeros(0)}
    with joined("cpu") as world:
        value = world.share(tensors, {"rank": rank, "text": "grün" * (rank + 1)})
        nothing = world.share({}, None if rank == 0 else {"else": 1})
    return {"tensors": {name: tensor.tolist() for name, tensor in tensors.items()}, "value": value, "nothing": nothing}


def twice(rank: int) -> list[Any]:
    """Train together in two stages of one run."""
    said: list[Any] = []
    for stage in ("pretrain", "sft"):
        with joined("cpu", stage) as world:
            said.append(world.share({}, f"{stage} {rank}"))
    return said


def absent(rank: int) -> None:
    """Rank 1 never comes."""
    if rank == 0:
        with joined("cpu", minutes=1 / 60):
            pass


def restart(rank: int) -> list[Any]:
    """Meet in a store that a dead attempt has written to, as torchrun's after a restart."""
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    address, port, wait = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timedelta(seconds=60)
    server = dist.TCPStore(address, port, is_master=rank == 0, timeout=wait)
    if rank == 0:
        stale = dist.PrefixStore("x", server)
        for key, value in {"sign/1": "dead", "heard/1": "dead", "call": json.dumps({"name": "dead", "signs": ["dead"]})}.items():
            stale.set(key, value)
        server.set("ready", "yes")
    server.wait(["ready"])
    said: list[Any] = []
    for attempt in range(3):
        with joined("cpu", "x") as world:
            said.append(world.share({}, f"{attempt} {rank}"))
    if rank == 0:
        server.wait(["done"])
    else:
        server.set("done", "yes")
    return said
