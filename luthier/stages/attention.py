"""Which attention a stage trains with. In: settings, a device, a shape. Out: a back end. Next: training, which records it."""

from __future__ import annotations

import platform

import torch

from luthier.config.model import ModelConfig
from luthier.config.training import TrainingSection
from luthier.errors import HardwareError
from luthier.model.choose import CANDIDATES, Trial, fastest, try_back_end
from luthier.model.flash import why_not_here
from luthier.runs.files import read_json, write_json
from luthier.stages.stage import Job
from luthier.train.device import Compute


def choose_attention(
    compute: Compute, job: Job, settings: TrainingSection, config: ModelConfig, documents: bool, seq_len: int | None = None
) -> str:
    """Take what was asked for, or on a GPU the fastest that is right there; `documents` says whether rows hold several.

    `seq_len` are the tokens of a row, those of `pack` if not said.

    Raises: HardwareError when the one that was asked for cannot train here
    """
    if settings.attention != "auto":
        return _require(settings.attention, compute.device)
    if compute.device != "cuda":
        return "auto"  # the rule needs no trying
    length = seq_len or job.recipe.pack.seq_len
    return _fastest(job, Trial.of(config, length, compute.precision, documents, compute.device))


def _require(backend: str, device: str) -> str:
    reason = why_not_here(device) if backend == "triton" else None
    if backend == "flex" and device != "cuda":
        reason = f"FlexAttention cannot train on {device}"
    if reason:
        raise HardwareError(f"attention={backend} was asked for, but {reason}", fix="set attention=auto")
    return backend


def _fastest(job: Job, trial: Trial) -> str:
    """Try all candidates; found out once for each shape, machine and version of torch."""
    path, key = job.cache / "probes.json", f"attention, torch {torch.__version__} {platform.node()} {trial}"
    known: dict[str, str | None] = read_json(path) or {}
    if not (found := known.get(key)):
        job.progress.say("trying which attention is fastest here; this is done once")
        tried = {name: try_back_end(name, trial) for name in CANDIDATES}
        for name, result in tried.items():
            job.progress.say(f"attention {name}: {f'not here: {result}' if isinstance(result, str) else f'{result:.2f} ms'}")
        if not (found := fastest(tried)):
            return "auto"
        write_json(path, {**known, key: found})
    return found
