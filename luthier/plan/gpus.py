"""Machines by name. In: a name like `h100`, `8xh100`, `this`. Out: its rates, sizes and price. Next: report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from luthier.errors import ConfigError
from luthier.plan.hardware import Hardware, this_machine

_RUNPOD = "RunPod Community Cloud in March 2026, as listed by deploybase.ai"
_DIGITALOCEAN = "DigitalOcean on 2026-10-07, as listed by huggingface.co/datasets/tokenwatt/gpu-cloud-prices"


def _gpu(
    name: str,
    tflops: Mapping[str, float],
    memory_gib: float,
    gb_per_s: float,
    watts: float,
    link_gb_per_s: float,
    source: str,
    price: float | None = None,
    price_source: str = _RUNPOD,
) -> Hardware:
    peak = {kind: rate * 1e12 for kind, rate in tflops.items()}
    return Hardware(
        name,
        peak,
        memory_gib,
        gb_per_s * 1e9,
        watts,
        source,
        on_gpu=True,
        bf16_units="bf16" in peak,
        interconnect=link_gb_per_s * 1e9,
        price_per_hour=price,
        price_source=price_source if price is not None else "no price found",
    )


TABLE: dict[str, Hardware] = {
    "t4": _gpu("NVIDIA T4", {"fp16": 65, "fp32": 8.1}, 15, 320, 70, 15.75, "NVIDIA T4 data sheet"),
    "l4": _gpu("NVIDIA L4", {"bf16": 121, "fp32": 30.3}, 22.5, 300, 72, 31.5, "NVIDIA L4 data sheet", 0.44),
    "rtx3090": _gpu("NVIDIA RTX 3090", {"bf16": 71, "fp32": 35.6}, 24, 936, 350, 31.5, "NVIDIA Ampere GA102 architecture paper", 0.22),
    "rtx4090": _gpu("NVIDIA RTX 4090", {"bf16": 165.2, "fp32": 82.6}, 24, 1008, 450, 31.5, "NVIDIA Ada architecture paper", 0.34),
    "rtx5090": _gpu(
        "NVIDIA RTX 5090", {"bf16": 209.5, "fp32": 104.8}, 31.8, 1792, 575, 63, "NVIDIA RTX Blackwell architecture paper", 0.69
    ),
    "rtxpro4500": _gpu(
        "NVIDIA RTX PRO 4500 Blackwell", {"bf16": 219.7, "fp32": 54.9}, 31.8, 896, 200, 63, "10,496 cores at 2.617 GHz (technical.city)"
    ),
    "a100": _gpu("NVIDIA A100 80GB SXM", {"bf16": 312, "fp32": 19.5}, 80, 2039, 400, 300, "NVIDIA A100 data sheet", 1.39),
    "h100": _gpu("NVIDIA H100 SXM", {"bf16": 989, "fp32": 67}, 79.6, 3350, 700, 450, "NVIDIA H100 data sheet", 2.69),
    "h200": _gpu("NVIDIA H200 SXM", {"bf16": 989, "fp32": 67}, 140.4, 4800, 700, 450, "NVIDIA H200 data sheet", 3.59),
    "mi300x": _gpu("AMD MI300X", {"bf16": 1307, "fp32": 163}, 192, 5300, 750, 448, "AMD Instinct MI300X data sheet", 2.59, _DIGITALOCEAN),
}
"""Common GPUs by their makers' data sheets: dense rates, bf16 and fp16 with fp32 accumulation, without sparsity; memory as the driver shows
it; watts at the board's limit. The link is one direction of NVLink or Infinity Fabric, or of PCIe where there is neither."""

PROCESSORS: dict[str, Hardware] = {
    "2cores": Hardware(
        "two CPU cores with bf16 units",
        {"bf16": 4.4e11},
        4,
        source="a virtual AMD EPYC with AVX-512 bf16, measured: docs/LOG.md",
        bf16_units=True,
        runs={f"cpu bf16 {how} assumed": (1.33,) for how in ("compiled", "uncompiled")},
    ),
}
"""Machines without a GPU whose speed is known: the rate of a product of 1,024 squared, and how much longer than assumed a step takes of a
model 128 wide."""


def hardware(name: str, root: Path, device: str = "auto") -> Hardware:
    """Look a machine up by its short name, `NxNAME` for N of them together; `this` is the one we are on.

    Raises: ConfigError for a name that is not in the table.
    Example: `hardware("8xh100", Path("runs"))`
    """
    count, found, short = name.lower().partition("x")
    several = bool(found) and count.isdecimal() and int(count) > 0
    short = short if several else name.lower()
    machines = {**TABLE, **PROCESSORS}
    if short != "this" and short not in machines:
        known = f"known are: this, {', '.join(machines)}; 8xh100 is eight of them"
        raise ConfigError(f"hardware {name!r} is not in the table", fix=known)
    one = this_machine(root, device) if short == "this" else machines[short]
    return replace(one, count=int(count)) if several else one
