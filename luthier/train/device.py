"""What this machine can compute, and how fast. In: settings of a recipe. Out: device, precision, measured rates. Next: loop."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from luthier.config.training import TrainingSection
from luthier.errors import HardwareError, HardwareFailure
from luthier.model.precision import DTYPES
from luthier.plan.hardware import machine
from luthier.plan.steps import can_compile, is_compiled

T = TypeVar("T")


@dataclass(frozen=True)
class Compute:
    """Where and how a stage computes; recorded when it starts and taken again when it resumes."""

    device: str
    precision: str
    compiled: bool
    threads: int
    attention: str = "auto"
    """The back end that attention trains with."""
    micro_batch_size: int | None = None
    """Rows in one forward pass, where they were found by trial."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of activations and matrix products."""
        return DTYPES[self.precision]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def resolve_compute(settings: TrainingSection, work: float) -> Compute:
    """Settle what the recipe leaves to the machine; depends on the machine and the recipe only, never on a timing.

    `work` is tokens times layers of the run.
    Raises: HardwareError when something explicitly asked for is not there.
    """
    device = _resolve_device(settings.device)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if _has_bf16_units(device) else "fp32"
    if settings.compile == "on" and not can_compile(device):
        raise HardwareError(
            "pretrain.compile=on needs a C++ compiler (g++ or clang++), none was found",
            fix="install one, or set compile=auto",
        )
    compiled = is_compiled(settings.compile, device, work)
    return Compute(device, precision, compiled, torch.get_num_threads())


def _resolve_device(asked: str) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[asked]:
        raise HardwareError(
            f"device={asked} was asked for, but torch {torch.__version__} finds none here", fix="set device=auto or device=cpu"
        )
    return asked


def take_device(device: str) -> None:
    """Let `cuda` mean this rank's own GPU; for one process, leave it as it is. Call it before anything is put there.

    Raises: HardwareError when there is none for this rank
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or device == "cpu":
        return
    rank, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device != "cuda" or rank >= there:
        raise HardwareError(
            f"rank {rank} on this machine needs a CUDA device of its own, there are {there}",
            fix=f"torchrun --nproc-per-node {max(1, there)}, or pretrain.device=cpu",
        )
    torch.cuda.set_device(rank)


def _has_bf16_units(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = machine().get("flags", ())
    return device == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags)


def require_same_bits() -> None:
    """Use only operations whose result does not depend on which thread comes first.

    Without it, compiled CPU code adds up the embedding's gradient with atomic additions, in whatever order the threads arrive.
    """
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # a debugging aid that costs time
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def within_memory(attempt: Callable[[int], T], size: int, device: str, warn: Callable[[str], None] | None = None) -> tuple[T, int]:
    """Call `attempt` with a number of rows, halved whenever memory runs out; return its result and the number that fitted.

    Raises: HardwareError when a single row does not fit
    """
    while True:
        try:
            return attempt(size), size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise HardwareError(
                    f"not even one row fits into the memory of {device}", fix="set pack.seq_len or the model's dimensions lower"
                ) from None
        size = max(1, size // 2)
        if warn is not None:
            warn(f"out of memory on {device}: going on with {size} rows at a time")
        gc.collect()  # an error's frames hold on to tensors
        if device == "cuda":
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


@contextlib.contextmanager
def device_errors(device: str) -> Generator[None, None, None]:
    """Turn what a driver says when its device went away into one sentence.

    Raises: HardwareFailure
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in ("CUDA error", "cuDNN error", "HIP error", "MPS backend")):
            raise
        first = str(error).splitlines()[0]
        raise HardwareFailure(
            f"{device} failed: {first}; after sleep, a driver's update or its reset a process cannot go on using it",
            fix="run the same command again, it goes on from the last checkpoint; if it happens again, restart the machine",
        ) from error


def measure_matmul(device: str, dtype: torch.dtype, size: int = 1024, seconds: float = 0.3) -> float:
    """Measure the rate of a square matrix product: the median of repeated runs.

    Units: FLOP/s
    """
    draw = torch.Generator(device).manual_seed(0)  # not the process's own: its state is part of a checkpoint
    a, b = (torch.randn(size, size, device=device, generator=draw).to(dtype) for _ in range(2))
    times: list[float] = []
    a @ b
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 3:
        synchronise(device)
        start = time.perf_counter()
        a @ b
        synchronise(device)
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / statistics.median(times)


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def memory_gib(device: str) -> float:
    """Peak memory of this process on the device it computes on.

    Units: GiB
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
