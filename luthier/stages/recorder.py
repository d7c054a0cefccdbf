"""What a training stage writes while it trains, and keeps consistent with its checkpoints. In: moments. Out: metrics, samples, saves."""

from __future__ import annotations

import contextlib
import gc
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from luthier.config.training import OptimSection, TrainingSection
from luthier.errors import StorageError
from luthier.model.decoder import Decoder
from luthier.optim.optimizers import Optimizer
from luthier.pack.loader import Loader, RowSource
from luthier.pack.superposition import Superposition
from luthier.plan.compute import training_flops_per_token
from luthier.plan.memory import checkpoint_bytes, checkpoints_on_disk
from luthier.runs.files import make_directory, read_json
from luthier.runs.metrics import MetricsWriter, read_metrics
from luthier.runs.progress import Bar, size_text
from luthier.stages.stage import Job
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.checkpoint import Identity, checkpoints
from luthier.train.device import Compute, measure_matmul, memory_gib
from luthier.train.loop import Every, Moment, Trainee
from luthier.train.objective import Objective
from luthier.train.saving import Retention, Saver

FEW = 4
"""Steps of an attempt that tell what compiling took."""


@dataclass(frozen=True)
class Training:
    """One training stage, ready to go."""

    job: Job
    name: str
    settings: TrainingSection
    optim: OptimSection
    model: Decoder
    tokenizer: Tokenizer
    rows: RowSource
    steps: int
    compute: Compute
    lr_scale: Callable[[int], float]
    validate: Callable[[], dict[str, float]]
    sample: Callable[[], list[tuple[str, str]]]
    """Prompts and what the model says to them now."""
    parent_key: str | None = None
    """Key of the training that this one goes on from under changed settings."""
    superposition: Superposition | None = None
    """What the first steps see in place of `rows`."""
    objective: Objective | None = None
    """What is minimised; the next token's cross-entropy where nothing is said."""
    loader: Loader | None = None
    """Where batches come from, if not from `rows`."""
    optimizer: Callable[[Decoder, OptimSection], Optimizer] | None = None
    """What makes the optimizer, where it is not `build_optimizer`."""
    best: bool = False
    """Whether the stage gives the checkpoint with the lowest validation loss, not the last one; it must be kept."""


class Recorder:
    """Writes what happens; the hooks of one training, on the rank that leads."""

    def __init__(
        self, training: Training, trainee: Trainee, bar: Bar, state: dict[str, Any] | None, identity: Identity, ranks: int
    ) -> None:
        self._training, self._trainee, self._bar = training, trainee, bar
        job, settings = training.job, training.settings
        self._best: dict[str, Any] | None = (state or {}).get("best")
        self._new_best = False
        self._metrics, self._samples = self._open_logs(state)
        every = settings.checkpoint_every if "rollback" in (settings.on_nonfinite, settings.on_spike) else None
        retention = Retention(settings.keep_checkpoints, every)
        root = job.directory / "checkpoints"
        self.saver = Saver(root, training.tokenizer, identity, retention, job.progress.warn, settings.checkpoint_minutes)
        self._started = time.monotonic()
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._steps: list[float] = []
        self._peak = measure_matmul(training.compute.device, training.compute.dtype) * ranks
        self._flops_per_token = training_flops_per_token(training.model.config, training.rows.seq_len)

    def hooks(self) -> list[Every]:
        """The order matters: a checkpoint covers all that was written before it, so it comes last."""
        settings = self._training.settings
        return [
            Every(1, self._log),
            Every(settings.eval_every, self._validate),
            Every(settings.sample_every, self._sample),
            Every(1, self._save_when_due),
        ]

    def event(self, **values: Any) -> None:
        """Write a line that is no step's."""
        self._metrics.write(values)

    def rewind(self, state: dict[str, Any]) -> None:
        """Cut the logs back to a checkpoint."""
        self.close()
        self._metrics, self._samples = self._open_logs(state)
        self._best = state.get("best")
        self._bar.done = state["tokens_seen"]

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()

    def measured(self) -> dict[str, Any]:
        """Throughput, memory, health and the cost of saving, from the metrics and this attempt's clocks."""
        rows = [row for row in read_metrics(self._training.job.directory / "metrics.jsonl") if "train/loss" in row]
        rates = sorted(row["tok_per_s"] for row in rows if "tok_per_s" in row)  # a damaged log is accepted as it is
        health, cost, attempt = self._trainee.health, self.saver.cost, time.monotonic() - self._started
        return {
            "tok_per_s": rates[len(rates) // 2] if rates else None,
            "peak_flops": self._peak,
            "mem_gib": memory_gib(self._training.compute.device),
            "seconds_training": sum(row.get("step_ms", 0.0) for row in rows) / 1e3,
            "compute": read_json(self._training.job.directory / "compute.json") or self._training.compute.as_dict(),
            "micro_batch_size": self._trainee.micro_batch_size,
            "compile_seconds": self._compile_seconds(),
            "health": {"skipped": health.skipped, "spikes": health.spikes, "rollbacks": health.rollbacks},
            **({"loss_scale": scaler.as_dict()} if (scaler := self._trainee.scaler) else {}),
            "evaluation": {"seconds": self._spent["evaluation"], "share": self._spent["evaluation"] / attempt},
            "samples": {"seconds": self._spent["samples"], "share": self._spent["samples"] / attempt},
            "checkpoints": {
                "saved": cost.saves,
                "failed": cost.failures,
                "stopped_seconds": cost.stopped_seconds,
                "writing_seconds": cost.writing_seconds,
                "attempt_seconds": attempt,
                "share": cost.stopped_seconds / attempt,
            },
        }

    @contextlib.contextmanager
    def _pause(self, what: str) -> Generator[None]:
        """Take the time of what training stands still for; it is also when garbage is looked for."""
        started = time.perf_counter()
        yield
        gc.collect()
        self._spent[what] += time.perf_counter() - started

    def _compile_seconds(self) -> float:
        """By how much this attempt's first step was longer than those behind it, where it compiled."""
        if not self._training.compute.compiled or len(self._steps) < 2:
            return 0.0
        return max(0.0, self._steps[0] - statistics.median(self._steps[1:]))

    def _note_compiling(self, seconds: float) -> None:
        """Keep the time of the attempt's first steps, and say after them what compiling took."""
        if len(self._steps) < FEW:
            self._steps.append(seconds)
            if len(self._steps) == FEW and self._training.compute.compiled:
                self._training.job.progress.say(f"{self._training.name}: compiling took {self._compile_seconds():.1f} s of the first step")

    def _open_logs(self, state: dict[str, Any] | None) -> tuple[MetricsWriter, MetricsWriter]:
        """Metrics and samples, cut back to a checkpoint."""
        job, told = self._training.job, state or {}
        metrics, samples = (
            MetricsWriter(
                job.directory / f"{name}.jsonl",
                told.get("offsets", {}).get(name, 0),
                job.progress.warn,
                told.get("unwritten", {}).get(name, ""),
            )
            for name in ("metrics", "samples")
        )
        return metrics, samples

    def _log(self, moment: Moment) -> None:
        rate = moment.tokens / moment.seconds
        first = self._training.superposition
        bag = first.bag if first is not None and self._trainee.cursor <= first.steps else 1
        mfu = rate / bag * self._flops_per_token / self._peak
        self._note_compiling(moment.seconds)
        lr = moment.lr_scale * self._training.optim.lr
        self._bar.note(f"loss {moment.loss:.3f}  lr {lr:.1e}  {mfu:.0%} of peak")
        self._bar.advance(moment.tokens)
        self._training.job.note(self._training.name, moment.step, moment.steps)
        if moment.step % self._training.settings.log_every == 0 or moment.last:
            row = {"step": moment.step, "train/loss": moment.loss, "lr": lr, "grad_norm": moment.grad_norm}
            speed = {"tok_per_s": rate, "step_ms": moment.seconds * 1e3, "mfu": mfu, "mem_gib": memory_gib(self._training.compute.device)}
            measures = {f"post/{name}": value for name, value in moment.measures.items()}
            self._metrics.write({**row, **measures, "tokens_seen": moment.tokens_seen, **speed})

    def _validate(self, moment: Moment) -> None:
        self._training.model.eval()
        with self._pause("evaluation"):
            values = self._training.validate()
        self._metrics.write({"step": moment.step, "tokens_seen": moment.tokens_seen, **values})
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        self._training.job.progress.say(f"{self._training.name}: step {moment.step}/{moment.steps}  train/loss {moment.loss:.3f}  {shown}")
        if self._training.settings.keep_best and (self._best is None or values["val/loss"] < self._best["val/loss"]):
            self._best, self._new_best = {"step": moment.step, "val/loss": values["val/loss"]}, True

    def _sample(self, moment: Moment) -> None:
        self._training.model.eval()
        with self._pause("samples"):
            drawn = self._training.sample()
        for prompt, text in drawn:
            self._samples.write({"step": moment.step, "prompt": prompt, "text": text})
            self._training.job.progress.sample(f"step {moment.step}", f"{prompt}{text}" if self._training.name == "pretrain" else text)

    def _save_when_due(self, moment: Moment) -> None:
        every = self._training.settings.checkpoint_every
        by_step = every is not None and moment.step % every == 0
        if not (by_step or moment.last or moment.stopping or self._new_best or self.saver.due()):
            return
        metrics, samples = self._metrics, self._samples
        logs = {"metrics": metrics, "samples": samples}
        extra = {
            "offsets": {name: log.offset() for name, log in logs.items()},
            "unwritten": {name: log.unwritten for name, log in logs.items()},
            "best": self._best,
        }

        def sync() -> None:
            metrics.sync()
            samples.sync()

        self.saver.save(self._trainee, extra, sync)
        gc.collect()
        self._new_best = False
        if moment.last or moment.stopping:
            self.saver.finish()


def require_disk(training: Training) -> None:
    """Refuse to begin what the disk cannot hold: the checkpoints that are kept and the one being written.

    Raises: StorageError with both sizes
    """
    settings, root = training.settings, make_directory(training.job.directory / "checkpoints")
    one = checkpoint_bytes(training.model.config, training.optim)
    wanted = one * checkpoints_on_disk(settings)
    there = sum(file.stat().st_size for directory in checkpoints(root) for file in directory.iterdir())
    free = shutil.disk_usage(root).free
    if wanted - there > free:
        raise StorageError(
            f"{root}: {training.name} needs {size_text(wanted - there)} for its checkpoints, the disk has {size_text(free)} free",
            fix="free some space, choose another runs.root, or keep fewer with keep_checkpoints=1",
        )
