"""What pretraining and SFT share around the loop: where to compute, going on after a stop, closing. In: a training. Out: an outcome."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from luthier.config.sft import LoraSection
from luthier.config.training import PretrainSection, TrainingSection
from luthier.errors import CheckpointError
from luthier.export.peft import export_adapters, why_no_adapters
from luthier.model.weights import load_tensors, weights_sha256
from luthier.optim.build import build_optimizer
from luthier.pack.loader import Loader
from luthier.pack.superposition import SuperposedLoader
from luthier.plan.hardware import available_bytes
from luthier.plan.horizon import micro_batch_rows, rows_per_step, step_rows
from luthier.plan.memory import training_bytes
from luthier.post.adapters import saved_factors
from luthier.runs.files import read_json, write_json
from luthier.runs.manifest import read_manifest
from luthier.runs.memory import forget_peak, keep_freed_memory, return_freed_memory
from luthier.runs.metrics import read_metrics
from luthier.runs.progress import Bar
from luthier.stages.incidents import Incidents
from luthier.stages.recorder import Recorder, Training, require_disk
from luthier.stages.stage import Job, Outcome, follows, wait_for
from luthier.train.checkpoint import MANIFEST, Identity, checkpoints, clean, load_newest, spread
from luthier.train.device import Compute, device_errors, require_same_bits, resolve_compute, take_device
from luthier.train.guards import require_master_weights
from luthier.train.loop import Course, Trainee, fit
from luthier.train.micro_batch import rows_that_fit, rows_within
from luthier.train.objective import NextToken
from luthier.train.parallel import World, joined
from luthier.train.prefetch import Prefetch
from luthier.train.probe import why_not_compile
from luthier.train.randomness import seed_all
from luthier.train.scaler import LossScaler
from luthier.train.stopping import listening
from luthier.train.superposition import NextBag

_TAKEN = "taken.json"
"""In a stage's directory: which checkpoint is its result, where that is not the last one."""


def settle_compute(
    job: Job, settings: TrainingSection, tokens: int, n_layers: int, attention: Callable[[Compute], str] | None = None
) -> Compute:
    """Decide where and how to compute, once: a resumed stage takes what the first attempt recorded."""
    path = job.directory / "compute.json"
    recorded = wait_for(lambda: read_json(path), path) if follows() else read_json(path)
    if isinstance(recorded, dict):
        compute = Compute(**recorded)
    else:
        compute = resolve_compute(settings, tokens * n_layers)
        if compute.compiled and settings.compile == "auto" and (reason := _why_not_compile(job, compute)):
            job.progress.warn(f"{job.directory.parent.name}: not compiled: {reason}")
            compute = replace(compute, compiled=False)
        if attention is not None:
            compute = replace(compute, attention=attention(compute))
        write_json(path, compute.as_dict())
    take_device(compute.device)
    torch.set_num_threads(compute.threads)
    require_same_bits()
    keep_freed_memory()
    return compute


def _why_not_compile(job: Job, compute: Compute) -> str | None:
    """Whether compiled code does not work here; found out once for each version of torch."""
    path, key = job.cache / "probes.json", f"torch {torch.__version__} {platform.node()} {compute.device} {compute.precision}"
    known: dict[str, str | None] = read_json(path) or {}
    if known.get(key, "unknown") is not None:  # a failure is tried again: it may have been mended
        job.progress.say("trying whether compiled code works here; this is done once")
        known[key] = why_not_compile(compute.device, compute.precision)
        write_json(path, known)
    return known[key]


def run_training(training: Training) -> Outcome:
    """Train to the end, from wherever an earlier attempt got; leave the final checkpoint, metrics, samples and adapters.

    On the leading rank the model then has the weights of the checkpoint that the stage gives.
    """
    job, compute = training.job, training.compute
    require_master_weights(training.model)
    return_freed_memory()
    forget_peak()  # what earlier stages of this process took is not the training's
    with device_errors(compute.device), joined(compute.device, job.key) as world:
        if world.leads:
            require_disk(training)
        trainee, loader, identity, state = begin(training, world)
        total = loader.step_rows.before(training.steps) * training.rows.seq_len
        if (first := training.superposition) is not None:
            total += loader.step_rows.before(first.steps) * (first.bag - 1) * training.rows.seq_len
        with job.progress.bar(training.name, total, "tokens", trainee.tokens_seen) as bar:
            recorder = _train(training, trainee, loader, identity, world, state, bar)
    sha256 = weights_sha256(training.model.state_dict())
    summary = {"weights_sha256": sha256, "steps": trainee.step, "tokens": trainee.tokens_seen, "validation": _validation(job.directory)}
    outcome = Outcome(sha256, {**summary, **(recorder.measured() if recorder else {})})
    if follows():  # nobody asks it what came of it, and the last checkpoint may not be on the disk yet
        return outcome
    if training.best:
        outcome = _take_best(training, outcome)
    if isinstance(training.settings, LoraSection) and training.settings.lora_rank:
        _leave_adapters(training, training.settings)
    return outcome


def begin(training: Training, world: World) -> tuple[Trainee, Loader, Identity, dict[str, object] | None]:
    """Make the trainee and put it where an earlier attempt got, on all ranks alike."""
    job, settings, seq_len = training.job, training.settings, training.rows.seq_len
    training.model.checkpointing = settings.activation_checkpointing
    trainee = Trainee(training.model, (training.optimizer or build_optimizer)(training.model, training.optim), 1)
    trainee.scaler = LossScaler() if training.compute.precision == "fp16" else None
    trainee.micro_batch_size = settle_micro_batch(training, trainee, world)
    identity = Identity(training.name, job.key, job.described, training.parent_key)
    state = None
    seed_all(job.recipe.run.seed)
    if world.leads:
        clean(job.directory / "checkpoints")
        state, complaints = load_newest(job.directory / "checkpoints", trainee, identity)
        for complaint in complaints:
            job.progress.warn(f"{complaint}; going on from an older checkpoint")
    state = spread(trainee, state, world)
    if trainee.step:
        job.progress.say(f"{training.name}: going on from step {trainee.step} of {training.steps}")
    if training.compute.compiled and trainee.step < training.steps:
        trainee.forward = torch.compile(training.model)
        job.progress.say(f"{training.name}: compiling the model; the first step takes up to a minute")
    rows = step_rows(settings, seq_len)
    replacement = isinstance(settings, PretrainSection) and settings.replacement
    given = (rows, job.recipe.run.seed, training.model.config.vocab_size, replacement)
    first = training.superposition
    loader = Loader(training.rows, *given) if first is None else SuperposedLoader(training.rows, first, *given)
    return trainee, training.loader or loader, identity, state


def settle_micro_batch(training: Training, trainee: Trainee, world: World) -> int:
    """Rows in one forward pass: the recipe's, or those an earlier attempt recorded, or what is found now and recorded.

    On an NVIDIA GPU they are found by trial; elsewhere they are what keeps the machine busy, or what the memory plan says is left for.
    """
    settings, compute, seq_len = training.settings, training.compute, training.rows.seq_len
    usual = micro_batch_rows(settings, seq_len, on_gpu=compute.device != "cpu")
    if settings.micro_batch_size is not None:
        return usual
    rows = compute.micro_batch_size
    if rows is None and world.leads:
        most = math.ceil(rows_per_step(settings.global_batch_tokens, seq_len) / world.size)
        if compute.device == "cuda":
            rows = rows_that_fit(trainee, training.rows, most, compute.device)
        else:
            rows = rows_within(usual, lambda n: _still_needed(training, n), available_bytes() if compute.device == "cpu" else None)
        if compute.device == "cuda" or rows < usual:
            training.job.progress.say(f"{training.name}: {rows} rows at a time, the most that fit")
        write_json(training.job.directory / "compute.json", {**compute.as_dict(), "micro_batch_size": rows})
    rows = world.share({}, rows)
    assert isinstance(rows, int), "the leading rank has found it"
    return rows


def _still_needed(training: Training, rows: int) -> int:
    """Bytes that a training will take besides the program, its weights and its optimizer, which are there."""
    seq_len, precision, kept = training.rows.seq_len, training.compute.precision, training.settings.activation_checkpointing
    compiled, config = training.compute.compiled, training.model.config
    parts = training_bytes(config, training.optim, rows, seq_len, precision, checkpointing=kept, compiled=compiled)
    return sum(size for part, size in parts.items() if part not in ("program", "weights", "optimizer"))


def _train(
    training: Training, trainee: Trainee, loader: Loader, identity: Identity, world: World, state: dict[str, object] | None, bar: Bar
) -> Recorder | None:
    """Run the loop with what a stage hangs on it; whatever ends it, a save in flight is finished first."""
    settings = training.settings
    recorder = Recorder(training, trainee, bar, state, identity, world.size) if world.leads else None
    course = Course(
        training.steps,
        training.lr_scale,
        training.optim.grad_clip,
        training.compute.device,
        world,
        settings.spike_deviations,
        settings.replay_every,
        Incidents(training, trainee, loader, recorder, identity, world),
        training.job.progress.warn,
    )
    try:
        kind = NextBag if training.superposition else NextToken
        shaping = {"label_smoothing": settings.label_smoothing, "z_loss": settings.z_loss}
        objective = training.objective or kind(training.compute.compiled, softcap=training.model.config.logit_softcap, **shaping)
        with listening(training.job.stop) as stop, Prefetch(loader) if loader.ahead else nullcontext(loader) as batches:
            fit(trainee, batches, objective, course, recorder.hooks() if recorder else [], stop)
    except Exception:  # not a second Ctrl-C: that one wants out
        if recorder is not None:
            recorder.saver.wait()
        raise
    finally:
        if recorder is not None:
            recorder.close()
    return recorder


def final_checkpoint(stage_directory: Path) -> Path:
    """The checkpoint that a finished training stage gives: the last one, or the one that it took."""
    found = checkpoints(stage_directory / "checkpoints")
    taken = read_json(stage_directory / _TAKEN)
    return stage_directory / "checkpoints" / str(taken["checkpoint"]) if isinstance(taken, dict) else found[-1]


def _validation(stage_directory: Path, step: int | None = None) -> dict[str, float]:
    """What was measured on held-out rows at a step, or the last time."""
    rows = [row for row in read_metrics(stage_directory / "metrics.jsonl") if "val/loss" in row and step in (None, row["step"])]
    return {key.removeprefix("val/"): value for key, value in rows[-1].items() if key.startswith("val/")} if rows else {}


def _take_best(training: Training, outcome: Outcome) -> Outcome:
    """Give the checkpoint with the lowest validation loss instead of the last one; the training must have kept it.

    Raises: CheckpointError when it is not there
    """
    job, root = training.job, training.job.directory / "checkpoints"
    best = (read_json(checkpoints(root)[-1] / "state.json") or {}).get("best") or {}
    directory = root / f"step_{int(best.get('step', 0)):06d}"
    manifest = read_manifest(directory / MANIFEST)
    if manifest is None:
        raise CheckpointError(f"{directory}: the checkpoint with the lowest validation loss is not there", fix="take the last one")
    write_json(job.directory / _TAKEN, {"checkpoint": directory.name})
    training.model.load_state_dict(load_tensors(directory / "model.safetensors", training.model.state_dict()))
    sha256, validation = str(manifest["weights_sha256"]), {**_validation(job.directory, best["step"]), "loss": best["val/loss"]}
    told = {
        "weights_sha256": sha256,
        "taken_step": best["step"],
        "validation": validation,
        "validation_last": outcome.summary["validation"],
    }
    return Outcome(sha256, {**outcome.summary, **told})


def _leave_adapters(training: Training, settings: LoraSection) -> None:
    """Write the factors that are in the checkpoint which the stage gives, for `peft`; or say why not."""
    factors, config = saved_factors(final_checkpoint(training.job.directory) / "training.safetensors"), training.model.config
    if reason := why_no_adapters(config, factors):
        training.job.progress.say(f"{training.name}: no adapters for peft: {reason}")
    else:
        export_adapters(config, factors, settings.lora_alpha, training.job.directory / "adapters")
