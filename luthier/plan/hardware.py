"""Machines. In: this machine's /proc, and what `luthier doctor` measured. Out: rates and sizes to plan with. Next: report.

Peaks of the table are the makers' data sheets', dense, without sparsity.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.runs.files import read_json

ASSUMED_UTILISATION = 0.4
"""Share of the measured or nominal peak that training is assumed to reach before anything was measured."""


@dataclass(frozen=True)
class Hardware:
    """What a plan needs to know of a machine.

    Units: FLOP/s, bytes/s, GiB, W
    """

    name: str
    peak: dict[str, float]
    memory_gib: float
    bandwidth: float | None = None
    watts: float | None = None
    source: str = ""


TABLE: dict[str, Hardware] = {
    "rtx3090": Hardware("RTX 3090", {"bf16": 71e12, "fp32": 35.6e12}, 24, 936e9, 350, "NVIDIA GA102 whitepaper"),
    "rtx4090": Hardware("RTX 4090", {"bf16": 165e12, "fp32": 82.6e12}, 24, 1008e9, 450, "NVIDIA Ada whitepaper"),
    "a100": Hardware("A100 80GB", {"bf16": 312e12, "fp32": 19.5e12}, 80, 2039e9, 400, "NVIDIA A100 data sheet"),
    "h100": Hardware("H100 SXM", {"bf16": 989e12, "fp32": 67e12}, 80, 3350e9, 700, "NVIDIA H100 data sheet"),
    "h200": Hardware("H200 SXM", {"bf16": 989e12, "fp32": 67e12}, 141, 4800e9, 700, "NVIDIA H200 data sheet"),
}


def machine() -> dict[str, Any]:
    """Processor, cores, memory and instruction sets of this machine, without torch.

    Units: memory_gib in GiB
    """
    name, flags = platform.processor() or platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() in ("flags", "Features"):
                flags = value
                break
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else float("nan")
    relevant = sorted(flag for flag in flags.split() if flag.startswith(("avx", "amx", "fma", "neon", "sve")))
    return {"cpu": name, "cores": os.cpu_count() or 1, "memory_gib": round(memory, 2), "flags": relevant}


def this_machine(root: Path) -> Hardware:
    """This machine, with the rates that `luthier doctor` left in `root/hardware.json`, if it did."""
    here = machine()
    measured = read_json(root / "hardware.json") or {}
    peak = {name: float(measured[f"gemm_{name}"]) for name in ("fp32", "bf16") if f"gemm_{name}" in measured}
    source = "measured by luthier doctor" if peak else "not measured yet: run `luthier doctor`"
    return Hardware(f"this machine ({here['cpu']}, {here['cores']} cores)", peak, here["memory_gib"], source=source)
