"""This machine. In: its /proc, and what `luthier doctor` measured. Out: rates and sizes to plan with. Next: gpus, report."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from luthier.plan.calibration import Calibration
from luthier.runs.files import read_json

ASSUMED_UTILISATION = 0.4
"""Share of the measured or nominal peak that training is assumed to reach where the machine was not calibrated."""
BF16_FLAGS = frozenset(("avx512_bf16", "amx_bf16"))
"""Instruction sets with which a processor multiplies bf16 matrices."""


@dataclass(frozen=True)
class Hardware:
    """What a plan needs to know of a machine.

    Units: FLOP/s (dense), bytes/s, GiB, W, US dollars an hour
    """

    name: str
    peak: dict[str, float]
    """By type: `fp32`, `bf16`, `fp16`; what is missing is unknown or not there."""
    memory_gib: float
    bandwidth: float | None = None
    watts: float | None = None
    source: str = ""
    on_gpu: bool = False
    bf16_units: bool | None = None
    """Whether bf16 products have units of their own; `None` leaves it to the measured rates."""
    calibration: Calibration | None = None
    """What `luthier plan --calibrate` measured here; `None`: a share of the peak is assumed."""
    runs: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """Measured over predicted time of earlier runs' steps, by `StepTime.key`."""
    device: str = "cpu"
    """How keys of `runs` call it."""
    count: int = 1
    """So many of them train together; all figures are one's."""
    interconnect: float | None = None
    """Bytes/s that one sends to another, and receives at the same time."""
    price_per_hour: float | None = None
    """US dollars to rent one for an hour."""
    price_source: str = ""

    def rate(self, precision: str) -> float | None:
        """Peak of a type, where it is known; fp16 is multiplied as fast as bf16 where nothing else is said."""
        return self.peak.get(precision) or (self.peak.get("bf16") if precision == "fp16" else None)

    @property
    def prefers_bf16(self) -> bool:
        """Whether `precision=auto` means bf16 here."""
        if self.bf16_units is not None:
            return self.bf16_units
        return self.peak.get("bf16", 0.0) > 1.2 * self.peak.get("fp32", 0.0)


def this_machine(root: Path, device: str = "auto") -> Hardware:
    """This machine, with the rates that `luthier doctor` left in `root/hardware.json`, if it did; its GPU where one was found."""
    here = machine()
    measured = known_measurements(root / "hardware.json", here)
    runs = _runs(measured)
    cards = cast("list[Any]", measured["gpus"]) if isinstance(measured.get("gpus"), list) else []
    if device in ("auto", "cuda") and cards and isinstance(cards[0], dict):
        card = cast("dict[str, Any]", cards[0])
        memory = _rate(card, "memory_gib") or here["memory_gib"]
        name, source = str(card.get("name", "GPU")), "measured by luthier doctor"
        return Hardware(f"this machine ({name})", _rates(card), memory, source=source, on_gpu=True, runs=runs, device=name)
    rates = _rates(measured)
    return Hardware(
        name=f"this machine ({here['cpu']}, {here['cores']} {'core' if here['cores'] == 1 else 'cores'})",
        peak=rates,
        memory_gib=here["memory_gib"],
        source="measured by luthier doctor" if rates else "not measured yet: run `luthier doctor`",
        bf16_units=bool(BF16_FLAGS.intersection(here["flags"])),
        calibration=_calibration(measured),
        runs=runs,
    )


def known_measurements(path: Path, here: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `hardware.json` says of this machine; nothing where it is damaged, or came with its directory from another one."""
    here, read = here or machine(), read_json(path)
    measured = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    same = all(measured.get(key) in (None, here[key]) for key in ("cpu", "cores"))
    return measured if same else {}


def _calibration(measured: Mapping[str, Any]) -> Calibration | None:
    """What was calibrated, unless it was with another version of torch."""
    told = measured.get("calibration")
    try:
        stale = isinstance(told, dict) and cast("dict[str, Any]", told).get("torch") not in (None, metadata.version("torch"))
    except metadata.PackageNotFoundError:
        stale = False
    return None if stale else Calibration.read(told)


def _runs(measured: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    told = measured.get("runs")
    runs = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
    return {str(key): tuple(cast("list[Any]", ratios)) for key, ratios in runs.items() if isinstance(ratios, list)}


def _rates(measured: Mapping[str, Any]) -> dict[str, float]:
    found = {kind: _rate(measured, f"gemm_{kind}") for kind in ("fp32", "bf16")}
    return {kind: rate for kind, rate in found.items() if rate is not None}


def _rate(measured: Mapping[str, Any], key: str) -> float | None:
    value = measured.get(key)
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def machine() -> dict[str, Any]:
    """Processor, cores, memory and instruction sets that this process may use, without torch.

    Where the system does not tell, memory is 0 and the flags are empty.

    Units: memory_gib in GiB
    """
    info = _cpu_info()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine() or "unknown processor",
        "cores": _usable_cores(),
        "memory_gib": round(_memory_bytes() / 2**30, 2),
        "flags": sorted({flag for flag in flags if flag.startswith(("avx", "amx", "fma", "neon", "asimd", "bf16", "sve"))}),
    }


def _cpu_info() -> dict[str, str]:
    """The first processor's fields in /proc/cpuinfo; empty where there is none."""
    fields: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields


def _usable_cores() -> int:
    """Cores left by the process's affinity and by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = (_read("/sys/fs/cgroup/cpu.max") or "").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _memory_bytes() -> int:
    """Memory of the machine, or of the container where that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    limit = (_read("/sys/fs/cgroup/memory.max") or "").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def available_bytes() -> int | None:
    """Memory that this process could still take, as Linux estimates it, or its container where that is less; elsewhere `None`.

    Pages of files count as free: they are given up when memory is short.
    """
    fields = dict(line.split(":", 1) for line in (_read("/proc/meminfo") or "").splitlines() if ":" in line)
    if "MemAvailable" not in fields:
        return None
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = ((_read(f"/sys/fs/cgroup/memory.{what}") or "").strip() for what in ("max", "current"))
    if not (limit.isdigit() and used.isdigit()):
        return free
    lines = (line.split() for line in (_read("/sys/fs/cgroup/memory.stat") or "").splitlines())
    files = sum(int(size) for name, size in lines if name in ("active_file", "inactive_file"))
    return min(free, max(0, int(limit) - int(used) + files))


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return None
