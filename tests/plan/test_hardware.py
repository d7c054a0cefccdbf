"""This machine: what doctor left behind, broken files, systems that tell nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.plan import hardware as room
from luthier.plan.hardware import machine, this_machine

BROKEN = ["", "[]", "{", "null", '{"gemm_fp32": "fast", "gpus": 3}', '{"gemm_fp32": -1, "gpus": [5]}', '{"gpus": null}']


@pytest.mark.parametrize("content", BROKEN)
def test_broken_measurements_are_no_measurements(tmp_path: Path, content: str) -> None:
    (tmp_path / "hardware.json").write_text(content)
    found = this_machine(tmp_path)
    assert found.peak == {} and "luthier doctor" in found.source


def test_measurements_of_another_machine_do_not_count(tmp_path: Path) -> None:
    values: dict[str, Any] = {"cpu": "Some Other Processor", "gemm_fp32": 1e11, "runs": {"cpu fp32 compiled assumed": [0.9]}}
    (tmp_path / "hardware.json").write_text(json.dumps(values))
    assert this_machine(tmp_path).peak == {}
    (tmp_path / "hardware.json").write_text(json.dumps({**values, "cpu": machine()["cpu"]}))
    found = this_machine(tmp_path)
    assert (found.peak, found.runs) == ({"fp32": 1e11}, {"cpu fp32 compiled assumed": (0.9,)})


def test_a_measured_gpu_is_the_machine_unless_the_cpu_is_asked_for(tmp_path: Path) -> None:
    values = {"cpu": machine()["cpu"], "gemm_fp32": 1e11, "gpus": [{"name": "X1", "memory_gib": 24.0, "gemm_bf16": 5e13}]}
    (tmp_path / "hardware.json").write_text(json.dumps(values))
    gpu, cpu = this_machine(tmp_path), this_machine(tmp_path, "cpu")
    assert gpu.on_gpu and gpu.memory_gib == 24.0 and gpu.peak == {"bf16": 5e13} and "X1" in gpu.name and gpu.prefers_bf16
    assert not cpu.on_gpu and cpu.peak == {"fp32": 1e11}


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_read", lambda path: None)
    monkeypatch.delattr("os.sysconf")
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    found = machine()
    assert found["cpu"] and found["cores"] >= 1
    assert (found["memory_gib"], found["flags"]) == (0, [])


def test_container_limits_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/cpuinfo": "processor\t: 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 avx512_bf16 sse\n\nmodel name\t: Other\n",
        "/sys/fs/cgroup/cpu.max": "100000 100000\n",
        "/sys/fs/cgroup/memory.max": f"{2**30}\n",
    }
    monkeypatch.setattr(room, "_read", files.get)
    assert machine() == {"cpu": "Fast One", "cores": 1, "memory_gib": 1.0, "flags": ["avx2", "avx512_bf16"]}
    files["/sys/fs/cgroup/cpu.max"] = files["/sys/fs/cgroup/memory.max"] = "max 100000\n"
    assert machine()["memory_gib"] > 0


def test_memory_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's limit counts where it is less; pages of files are as good as free."""
    files = {"/proc/meminfo": "MemTotal:  900 kB\nMemAvailable:   500 kB\n"}
    monkeypatch.setattr(room, "_read", files.get)
    assert room.available_bytes() == 500 * 1024
    files |= {"/sys/fs/cgroup/memory.max": "300000\n", "/sys/fs/cgroup/memory.current": "250000\n"}
    assert room.available_bytes() == 50_000
    files["/sys/fs/cgroup/memory.stat"] = "anon 5\ninactive_file 20000\nactive_file 1000\n"
    assert room.available_bytes() == 71_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert room.available_bytes() == 500 * 1024
    files.clear()
    assert room.available_bytes() is None
