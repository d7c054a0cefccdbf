"""The one loop. In: a trainee, a loader, an objective, a course, hooks. Out: a trained model. Next: checkpoint, then the stages.

Pretraining and SFT (and later DPO and GRPO) differ in their batches and their objective, never here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from luthier.errors import NumericsError
from luthier.model.decoder import Decoder
from luthier.optim.optimizers import Optimizer
from luthier.pack.loader import Batch
from luthier.runs.collection import collection_by_hand
from luthier.train.device import within_memory
from luthier.train.guards import Health, Trouble, clip_gradients, first_nonfinite, require_same_gradients
from luthier.train.objective import Objective, micro_batches
from luthier.train.parallel import ALONE, World
from luthier.train.prefetch import Batches
from luthier.train.scaler import LossScaler
from luthier.train.stopping import StopRequest


@dataclass
class Trainee:
    """Everything that changes while training and must survive a stop."""

    model: Decoder
    optimizer: Optimizer
    micro_batch_size: int
    """Rows in one forward pass; halved for good when memory runs out."""
    step: int = 0
    """Updates made."""
    cursor: int = 0
    """The loader's next batch; ahead of `step` by the batches that were left out."""
    tokens_seen: int = 0
    health: Health = field(default_factory=Health)
    scaler: LossScaler | None = None
    """For products in fp16."""
    forward: Callable[..., Tensor] = field(init=False)
    """The model, or its compiled form."""

    def __post_init__(self) -> None:
        self.forward = self.model

    def note_update(self, tokens: int, loss: float) -> None:
        """Count an update that was made."""
        self.step, self.cursor = self.step + 1, self.cursor + 1
        self.tokens_seen += tokens
        self.health.note_good(self.step, loss)
        if self.scaler is not None:
            self.scaler.note_good()


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
    measures: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the objective says of the step beside its loss."""

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
class Incident:
    """A step whose loss or gradients are not as they should be; its update is not made yet. `where` names the place when asked."""

    kind: Trouble
    step: int
    cursor: int
    loss: float
    grad_norm: float
    where: Callable[[], str]


def refuse(incident: Incident) -> bool:
    """The default answer to an incident: end.

    Raises: NumericsError
    """
    raise NumericsError(
        f"step {incident.step + 1}: loss {incident.loss}, gradient norm {incident.grad_norm}; first seen in {incident.where()}; "
        "the update was not made",
        fix="lower optim.lr or lengthen optim.warmup_steps; the last checkpoint is intact",
    )


@dataclass(frozen=True)
class Course:
    """How far, how fast, where, and what to do when something goes wrong."""

    steps: int
    lr_scale: Callable[[int], float]
    grad_clip: float
    device: str
    world: World = ALONE
    spike_deviations: float = 8.0
    replay_every: int | None = None
    on_incident: Callable[[Incident], bool] = refuse
    """Says whether to make the update all the same; otherwise it has put the trainee to where it should go on."""
    warn: Callable[[str], None] | None = None


def fit(trainee: Trainee, loader: Batches, objective: Objective, course: Course, hooks: Sequence[Every], stop: StopRequest) -> None:
    """Train from `trainee.step` to `course.steps`; Python's garbage collector does not run meanwhile, but where a hook calls it.

    Raises: NumericsError before an update with a loss or gradient that is not finite; Interrupted or Terminated on request.
    """
    with collection_by_hand():
        while trainee.step < course.steps:
            _advance(trainee, loader, objective, course, hooks, stop)


def _advance(trainee: Trainee, loader: Batches, objective: Objective, course: Course, hooks: Sequence[Every], stop: StopRequest) -> None:
    """Make one update and call the hooks; or none, where the step was bad or is to be tried again at another loss scale."""
    model = trainee.model
    started = time.perf_counter()
    model.train()
    batch = loader.batch(trainee.cursor)
    loss, stopping, measures = step_gradients(trainee, objective, batch, course, stop)
    grad_norm = clip_gradients(model, course.grad_clip)
    if trainee.scaler is not None and trainee.scaler.overflowed(loss, grad_norm):
        model.zero_grad(set_to_none=True)
        return
    trouble = trainee.health.judge(loss, grad_norm, course.spike_deviations)
    if trouble is not None:
        where = _finder(trainee, objective, batch, course)
        if not course.on_incident(Incident(trouble, trainee.step, trainee.cursor, loss, grad_norm, where)):
            model.zero_grad(set_to_none=True)
            return
    scale = course.lr_scale(trainee.step)
    trainee.optimizer.step(scale)
    model.zero_grad(set_to_none=True)
    trainee.note_update(batch.inputs.size, loss)
    seconds = time.perf_counter() - started
    stopping = stopping or (course.world.size == 1 and stop.reason() is not None)
    moment = Moment(trainee.step, course.steps, loss, grad_norm, scale, batch.inputs.size, trainee.tokens_seen, seconds, stopping, measures)
    for hook in hooks:
        hook(moment)
    if stopping and not moment.last:
        raise stop.error()


def step_gradients(
    trainee: Trainee, objective: Objective, batch: Batch, course: Course, stop: StopRequest
) -> tuple[float, bool, dict[str, float]]:
    """Leave the gradients of a whole batch, over all ranks, in the model; return its mean loss, whether any rank is to stop, and measures.

    Units: nats per token
    """
    world = course.world
    mine = share_of(batch, world)

    def attempt(rows: int) -> float:
        if trainee.model.config.dropout:  # what is dropped depends on the batch's number, not on how often it was tried
            torch.manual_seed(trainee.cursor * world.size + world.rank)
        return accumulate(trainee, objective, mine, objective.count(batch), rows, course.device)

    loss, trainee.micro_batch_size = within_memory(attempt, trainee.micro_batch_size, course.device, course.warn)
    if course.replay_every and (trainee.step + 1) % course.replay_every == 0:
        before = [p.grad for p in trainee.model.parameters()]
        again, _ = within_memory(attempt, trainee.micro_batch_size, course.device, course.warn)
        require_same_gradients(trainee.model, before, trainee.step, (loss, again))
    loss, asked, *sums = world.add_up(trainee.model, [loss, float(stop.reason() is not None), *objective.sums()])
    if trainee.scaler is not None:
        trainee.scaler.unscale(trainee.model)
    return loss, asked > 0, dict(zip(objective.measures, sums, strict=True))


def accumulate(trainee: Trainee, objective: Objective, batch: Batch, n_targets: int, rows: int, device: str) -> float:
    """Compute the gradients of a batch, micro-batch by micro-batch; return its share of the mean loss over `n_targets`.

    Units: nats per token
    """
    trainee.model.zero_grad(set_to_none=True)
    objective.begin()
    total = torch.zeros((), device=device)
    for part in micro_batches(batch, rows, device):
        loss = objective(trainee.forward, trainee.model.head_weight, part, n_targets)
        (loss if trainee.scaler is None else loss * trainee.scaler.scale).backward()
        total += loss.detach()
    return total.item()


def share_of(batch: Batch, world: World) -> Batch:
    """The rows of a batch that this rank computes."""
    if world.size == 1:
        return batch
    rows = world.rows(np.arange(len(batch.inputs)))
    extras = {name: array[rows] for name, array in batch.extras.items()}
    return Batch(batch.inputs[rows], batch.targets[rows], None if batch.doc_ids is None else batch.doc_ids[rows], extras=extras)


def _finder(trainee: Trainee, objective: Objective, batch: Batch, course: Course) -> Callable[[], str]:
    """Make the search for where values stopped being finite, should anybody ask."""

    def losses() -> Iterator[Tensor]:
        mine = share_of(batch, course.world)
        for part in micro_batches(mine, trainee.micro_batch_size, course.device):
            yield objective(trainee.model, trainee.model.head_weight, part, objective.count(batch))

    return lambda: first_nonfinite(trainee.model, losses())
