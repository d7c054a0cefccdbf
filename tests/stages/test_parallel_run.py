import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.cli import call

KEYS = ("step", "train/loss", "val/loss")


def start(ranks: int, arguments: list[str]) -> subprocess.Popen[str]:
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(ranks),
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
    ]
    command = [sys.executable, *(launcher if ranks > 1 else ["-m"]), "luthier", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def finish(ranks: int, arguments: list[str]) -> None:
    child = start(ranks, arguments)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said


def train_past(lines: int, ranks: int, arguments: list[str], root: Path) -> subprocess.Popen[str]:
    """Start, and return once the metrics are longer than that."""
    child = start(ranks, arguments)
    while not any(p.read_text().count("\n") > lines for p in root.glob("store/pretrain/*/metrics.jsonl")):
        time.sleep(0.02)
        assert child.poll() is None
    return child


def curve(root: Path) -> list[dict]:
    lines = next(root.glob("store/pretrain/*/metrics.jsonl")).read_text().splitlines()
    return [{key: json.loads(line).get(key) for key in KEYS} for line in lines]


def same_curve(one: list[dict], other: list[dict]) -> bool:
    assert [row["step"] for row in one] == [row["step"] for row in other]
    near = pytest.approx
    return all(row[key] is None or row[key] == near(there[key], abs=1e-4) for row, there in zip(one, other, strict=True) for key in KEYS)


OPTIONS = ["pretrain.steps=300", "pretrain.eval_every=1000", "pretrain.sample_every=1000", "pretrain.checkpoint_every=20"]


def test_any_number_of_ranks_goes_on_and_learns_what_one_does(tiny: list[str], tmp_path: Path) -> None:
    """A7."""
    arguments = ["pretrain", *tiny, *OPTIONS, "optim.name=adamw", "optim.lr=1e-3", "pretrain.precision=fp32"]
    assert call([*arguments, f"runs.root={tmp_path / 'one'}"]) == 0
    root = tmp_path / "runs"
    for lines, ranks in ((20, 2), (60, 1)):
        child = train_past(lines, ranks, arguments, root)
        (next(root.glob("tiny-*")) / "STOP").touch()
        assert "(the STOP file); everything is saved" in child.communicate(timeout=60)[1]
        assert lines < len(curve(root)) < 300
    finish(4, arguments)
    assert same_curve(curve(root), curve(tmp_path / "one"))


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(tiny: list[str], tmp_path: Path) -> None:
    """A11."""
    arguments = ["pretrain", *tiny, *OPTIONS]
    finish(2, [*arguments, f"runs.root={tmp_path / 'undisturbed'}"])
    parent = train_past(50, 2, arguments, tmp_path / "runs")
    children = subprocess.run(["pgrep", "-P", str(parent.pid), "-f", "luthier"], capture_output=True, text=True, check=True).stdout.split()
    ranks = {Path(f"/proc/{pid}/environ").read_bytes().split(b"\0RANK=")[1][:1]: int(pid) for pid in children}
    os.kill(ranks[b"1"], 9)
    began = time.monotonic()
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 1 and time.monotonic() - began < 60
    assert "rank 0 of 2: rank 1 is gone" in said or "stopped (SIGTERM)" in said
    finish(2, arguments)
    hashes = {
        json.loads(next((tmp_path / name).glob("store/pretrain/*/stage.json")).read_text())["fingerprint"]
        for name in ("runs", "undisturbed")
    }
    assert len(hashes) == 1
