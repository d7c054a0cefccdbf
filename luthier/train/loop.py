"""The one loop. In: a trainee, a loader, an objective, hooks. Out: a trained model. Next: checkpoint, then the stages.

Pretraining and SFT (and later DPO and GRPO) differ in their batches and their objective, never here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from luthier.model.decoder import Decoder
from luthier.optim.optimizers import Optimizer
from luthier.pack.loader import Batch, Loader
from luthier.train.guards import clip_gradients, require_finite
from luthier.train.objective import NextToken, micro_batches
from luthier.train.stopping import StopRequest


@dataclass
class Trainee:
    """Everything that changes while training and must survive a stop."""

    model: Decoder
    optimizer: Optimizer
    step: int = 0
    tokens_seen: int = 0
    forward: Callable[..., Tensor] = field(init=False)
    """The model, or its compiled form."""

    def __post_init__(self) -> None:
        self.forward = self.model


@dataclass(frozen=True)
class Moment:
    """What hooks learn about the step that just ended. `step` counts finished updates."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr_scale: float
    tokens: int
    tokens_seen: int
    seconds: float
    stopping: bool

    @property
    def last(self) -> bool:
        return self.step == self.steps


@dataclass(frozen=True)
class Every:
    """Call `action` after every n-th step, after the last one, and, if `on_stop`, when a stop was requested."""

    n: int
    action: Callable[[Moment], None]
    on_stop: bool = False

    def __call__(self, moment: Moment) -> None:
        if moment.step % self.n == 0 or moment.last or (self.on_stop and moment.stopping):
            self.action(moment)


@dataclass(frozen=True)
class Course:
    """How far, how fast, in what portions."""

    steps: int
    lr_scale: Callable[[int], float]
    grad_clip: float
    micro_batch_size: int
    device: str


def fit(trainee: Trainee, loader: Loader, objective: NextToken, course: Course, hooks: Sequence[Every], stop: StopRequest) -> None:
    """Train from `trainee.step` to `course.steps`.

    Raises: NumericsError before an update with a loss or gradient that is not finite; Interrupted or Terminated on request.
    """
    model = trainee.model
    for step in range(trainee.step, course.steps):
        started = time.perf_counter()
        model.train()
        batch = loader.batch(step)
        loss = accumulate(trainee, objective, batch, course)
        grad_norm = clip_gradients(model, course.grad_clip)
        require_finite(model, step, loss, grad_norm)
        scale = course.lr_scale(step)
        trainee.optimizer.step(scale)
        model.zero_grad(set_to_none=True)
        trainee.step = step + 1
        trainee.tokens_seen += batch.inputs.size
        seconds = time.perf_counter() - started
        stopping = stop.signal is not None
        moment = Moment(trainee.step, course.steps, loss, grad_norm, scale, batch.inputs.size, trainee.tokens_seen, seconds, stopping)
        for hook in hooks:
            hook(moment)
        if stopping and not moment.last:
            raise stop.error()


def accumulate(trainee: Trainee, objective: NextToken, batch: Batch, course: Course) -> float:
    """Add up the gradients of a batch, micro-batch by micro-batch; return its mean loss.

    Units: nats per token
    """
    n_targets = batch.n_loss_tokens
    total = torch.zeros((), device=course.device)
    for rows in micro_batches(batch, course.micro_batch_size, course.device):
        loss = objective(trainee.forward, trainee.model.head_weight, rows, n_targets)
        loss.backward()
        total += loss.detach()
    return total.item()
