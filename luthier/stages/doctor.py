"""Verb doctor: what this machine can do, measured, in plain words. Leaves `hardware.json` for the planner."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from typing import Any

import torch

from luthier.errors import StorageError
from luthier.plan.hardware import known_measurements, machine
from luthier.runs.files import make_directory, write_json
from luthier.runs.registry import runs_root
from luthier.stages.output import print_json, print_rows
from luthier.train.device import measure_matmul


def examine() -> dict[str, Any]:
    """Look at the machine and measure it; a few seconds.

    Units: rates in FLOP/s, memory in GiB
    """
    found: dict[str, Any] = {**machine(), "python": sys.version.split()[0], "torch": torch.__version__}
    found["threads"] = torch.get_num_threads()
    found["gemm_fp32"] = measure_matmul("cpu", torch.float32)
    found["gemm_bf16"] = measure_matmul("cpu", torch.bfloat16)
    found["gpus"] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rate = measure_matmul(f"cuda:{index}", torch.bfloat16, size=8192)
        found["gpus"].append({"name": properties.name, "memory_gib": properties.total_memory / 2**30, "gemm_bf16": rate})
    found["mps"] = torch.backends.mps.is_available()
    found["compiler"] = shutil.which("g++") or shutil.which("clang++")
    found["transformers"] = importlib.util.find_spec("transformers") is not None
    return found


def doctor_verb(*, as_json: bool, root: str | None) -> None:
    """Print the examination and remember it for `luthier plan`."""
    found = examine()
    try:
        path = make_directory(runs_root(root)) / "hardware.json"
        known = known_measurements(path)
        write_json(path, {**found, **{key: known[key] for key in ("calibration", "runs") if key in known}})
    except StorageError as error:
        print(f"warning: {error}", file=sys.stderr)
    if as_json:
        print_json(found)
    else:
        print_rows(_plain(found))


def _plain(found: dict[str, Any]) -> list[tuple[str, str]]:
    ratio = found["gemm_bf16"] / found["gemm_fp32"]
    rows = [
        ("processor", f"{found.get('cpu', 'unknown')}, {found['threads']} threads"),
        ("memory", f"{found['memory_gib']:.1f} GiB"),
        ("python, torch", f"{found['python']}, {found['torch']}"),
        ("products, fp32", f"{found['gemm_fp32'] / 1e9:.0f} GFLOP/s measured"),
        ("products, bf16", f"{found['gemm_bf16'] / 1e9:.0f} GFLOP/s measured, {ratio:.1f} times fp32"),
    ]
    units = {"avx512_bf16", "amx_bf16"} & set(found.get("flags", ()))
    verdict = "works, and training uses it" if units else "no units for it in this processor: training uses fp32"
    rows.append(("bf16 on the CPU", verdict))
    for gpu in found["gpus"]:
        rows.append(("GPU", f"{gpu['name']}, {gpu['memory_gib']:.0f} GiB, {gpu['gemm_bf16'] / 1e12:.0f} TFLOP/s bf16 measured"))
    if not found["gpus"]:
        rows.append(("GPU", "Apple's, through MPS" if found["mps"] else "none that torch can use: training runs on the CPU"))
    compiler = f"works, by {found['compiler']}" if found["compiler"] else "no C++ compiler: training runs uncompiled, about half as fast"
    rows.append(("torch.compile", compiler))
    export = "the export is proven against it" if found["transformers"] else "not installed: the export is written but not proven"
    rows.append(("transformers", export))
    return rows
