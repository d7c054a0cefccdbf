"""What pretraining and SFT share around the loop: resume, metrics, validation, samples, checkpoints. In: a job. Out: an outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.config.schema import OptimSection, TrainingSection
from luthier.model.decoder import Decoder
from luthier.model.weights import weights_sha256
from luthier.optim.build import build_optimizer
from luthier.pack.loader import Loader, RowSource
from luthier.plan.compute import training_flops_per_token
from luthier.plan.horizon import micro_batch_rows, rows_per_step
from luthier.runs.files import read_json, write_json
from luthier.runs.metrics import MetricsWriter, read_metrics
from luthier.runs.progress import Bar
from luthier.stages.stage import Job, Outcome
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.checkpoint import Identity, load_newest, save_checkpoint
from luthier.train.device import Compute, keep_freed_memory, measure_matmul, memory_gib, require_same_bits, resolve_compute
from luthier.train.guards import require_master_weights
from luthier.train.loop import Course, Every, Moment, Trainee, fit
from luthier.train.objective import NextToken
from luthier.train.stopping import listening


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


def settle_compute(job: Job, settings: TrainingSection, tokens: int, n_layers: int) -> Compute:
    """Decide where and how to compute, once: a resumed stage takes what the first attempt recorded."""
    path = job.directory / "compute.json"
    recorded = read_json(path)
    compute = Compute(**recorded) if isinstance(recorded, dict) else resolve_compute(settings, tokens * n_layers)
    if recorded is None:
        write_json(path, compute.as_dict())
    torch.set_num_threads(compute.threads)
    require_same_bits()
    keep_freed_memory()
    return compute


def run_training(training: Training) -> Outcome:
    """Train to the end, from wherever an earlier attempt got; leave the final checkpoint, metrics and samples."""
    job, model, settings = training.job, training.model, training.settings
    require_master_weights(model)
    trainee = Trainee(model, build_optimizer(model, training.optim))
    identity = Identity(training.name, job.key)
    state, complaints = load_newest(job.directory / "checkpoints", trainee, identity)
    for complaint in complaints:
        job.progress.warn(f"{complaint}; going on from an older checkpoint")
    if trainee.step:
        job.progress.say(f"{training.name}: going on from step {trainee.step} of {training.steps}")
    offsets = (state or {}).get("offsets", {"metrics": 0, "samples": 0})
    if training.compute.compiled:
        trainee.forward = torch.compile(model)
        job.progress.say(f"{training.name}: compiling the model; the first step takes up to a minute")
    rows = rows_per_step(settings.global_batch_tokens, training.rows.seq_len)
    micro = micro_batch_rows(settings, training.rows.seq_len, on_gpu=training.compute.device != "cpu")
    course = Course(training.steps, training.lr_scale, training.optim.grad_clip, micro, training.compute.device)
    loader = Loader(training.rows, rows, job.recipe.run.seed)
    with job.progress.bar(training.name, training.steps * rows * training.rows.seq_len, "tokens", trainee.tokens_seen) as bar:
        recorder = _Recorder(training, trainee, bar, offsets, identity)
        with listening() as stop:
            fit(trainee, loader, NextToken(training.compute.compiled), course, recorder.hooks(), stop)
        recorder.close()
    sha256 = weights_sha256(model.state_dict())
    last = [row for row in read_metrics(job.directory / "metrics.jsonl") if "val/loss" in row]
    final = {key.removeprefix("val/"): value for key, value in last[-1].items() if key.startswith("val/")} if last else {}
    summary = {"weights_sha256": sha256, "steps": trainee.step, "tokens": trainee.tokens_seen, "validation": final}
    return Outcome(sha256, {**summary, **recorder.measured()})


class _Recorder:
    """Writes what happens and keeps it consistent with the checkpoints."""

    def __init__(self, training: Training, trainee: Trainee, bar: Bar, offsets: dict[str, int], identity: Identity) -> None:
        self._training, self._trainee, self._bar, self._identity = training, trainee, bar, identity
        directory = training.job.directory
        self._metrics = MetricsWriter(directory / "metrics.jsonl", offsets["metrics"])
        self._samples = MetricsWriter(directory / "samples.jsonl", offsets["samples"])
        self._checkpoints = directory / "checkpoints"
        self._peak = self._machine_peak()
        self._flops_per_token = training_flops_per_token(training.model.config, training.rows.seq_len)

    def hooks(self) -> list[Every]:
        """The order matters: a checkpoint covers all that was written before it, so it comes last."""
        settings = self._training.settings
        return [
            Every(1, self._log),
            Every(settings.eval_every, self._validate),
            Every(settings.sample_every, self._sample),
            Every(settings.checkpoint_every, self._save, on_stop=True),
        ]

    def measured(self) -> dict[str, Any]:
        """Throughput and memory of the whole stage, from its metrics."""
        rows = [row for row in read_metrics(self._training.job.directory / "metrics.jsonl") if "train/loss" in row]
        rates = sorted(row["tok_per_s"] for row in rows)
        measured = {
            "tok_per_s": rates[len(rates) // 2] if rates else None,
            "peak_flops": self._peak,
            "mem_gib": memory_gib(self._training.compute.device),
        }
        return {**measured, "seconds_training": sum(row["step_ms"] for row in rows) / 1e3, "compute": self._training.compute.as_dict()}

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()

    def _machine_peak(self) -> float:
        """Rate of a bf16 or fp32 product, measured once for this attempt; the share of it is `mfu`."""
        return measure_matmul(self._training.compute.device, self._training.compute.dtype)

    def _log(self, moment: Moment) -> None:
        rate = moment.tokens / moment.seconds
        mfu = rate * self._flops_per_token / self._peak
        lr = moment.lr_scale * self._training.optim.lr
        self._bar.note(f"loss {moment.loss:.3f}  lr {lr:.1e}  {mfu:.0%} of peak")
        self._bar.advance(moment.tokens)
        if moment.step % self._training.settings.log_every == 0 or moment.last:
            row = {"step": moment.step, "train/loss": moment.loss, "lr": lr, "grad_norm": moment.grad_norm}
            speed = {"tok_per_s": rate, "step_ms": moment.seconds * 1e3, "mfu": mfu, "mem_gib": memory_gib(self._training.compute.device)}
            self._metrics.write({**row, "tokens_seen": moment.tokens_seen, **speed})

    def _validate(self, moment: Moment) -> None:
        self._training.model.eval()
        values = self._training.validate()
        self._metrics.write({"step": moment.step, "tokens_seen": moment.tokens_seen, **values})
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        self._training.job.progress.say(f"{self._training.name}: step {moment.step}/{moment.steps}  train/loss {moment.loss:.3f}  {shown}")

    def _sample(self, moment: Moment) -> None:
        self._training.model.eval()
        for prompt, text in self._training.sample():
            self._samples.write({"step": moment.step, "prompt": prompt, "text": text})
            self._training.job.progress.sample(f"step {moment.step}", f"{prompt}{text}" if self._training.name == "pretrain" else text)

    def _save(self, moment: Moment) -> None:
        extra = {"offsets": {"metrics": self._metrics.offset(), "samples": self._samples.offset()}}
        settings = self._training.settings
        save_checkpoint(self._checkpoints, self._trainee, self._training.tokenizer, self._identity, extra, settings.keep_checkpoints)


def final_checkpoint(stage_directory: Path) -> Path:
    """The last checkpoint of a finished training stage."""
    return max((stage_directory / "checkpoints").glob("step_*[0-9]"))
