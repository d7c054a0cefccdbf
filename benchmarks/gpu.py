"""Training on one CUDA GPU: share of the measured product rate and peak memory, ours against the peers; attention where it is measured.

    python benchmarks/gpu.py [--only A B D qt MyLLM attention] [--steps 8] [--seconds 540] [--limit 260] [--json]

Every measurement is a process of its own, ended after --limit seconds; after --seconds no new one begins. What fails is a row that says so.
Needs torch, numpy, pydantic, regex and safetensors; `transformers` and litgpt are measured where they are installed. Nothing is fetched.
The share counts attention causally and is against an 8,192 cubed bf16 product measured in the same process. A step is 32,768 tokens.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
DEVICE, TOKENS = "cuda", 32_768
SHAPES: dict[str, dict[str, Any]] = {
    "A": {"d_model": 256, "n_layers": 8, "n_heads": 4, "d_ff": 960, "vocab_size": 8192, "seq_len": 1024, "goal": 0.30},
    "B": {"d_model": 256, "n_layers": 8, "n_heads": 4, "d_ff": 960, "vocab_size": 16_384, "seq_len": 1024, "goal": 0.30},
    "D": {"d_model": 768, "n_layers": 12, "n_heads": 12, "d_ff": 2048, "vocab_size": 16_384, "seq_len": 1024, "goal": 0.50},
    # qt's GELU MLP of 8,192 as a SwiGLU with as many weights, to a multiple of 64
    "qt": {
        "d_model": 2048, "n_layers": 22, "n_heads": 32, "n_kv_heads": 8, "d_ff": 5440, "vocab_size": 10_001, "seq_len": 512, "goal": 0.58,
    },
    "MyLLM": {
        "d_model": 1792, "n_layers": 28, "n_heads": 14, "n_kv_heads": 2, "d_ff": 4864, "vocab_size": 65_536, "seq_len": 8192, "goal": 0.58,
    },
}  # fmt: skip
"""The five systems' dimensions, and the share of the rate that is asked for."""
PEERS = {"transformers": "transformers", "litgpt": "litgpt"}
GOAL_FASTER = 1.2


def ours(shape: dict[str, Any], steps: int) -> dict[str, float]:
    """Our training step, by the functions of the stages."""
    import tempfile

    from luthier.config.schema import Recipe
    from luthier.runs.progress import Progress
    from luthier.stages.bench import Subject

    model = {key: shape[key] for key in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "vocab_size") if key in shape}
    pretrain = {"steps": 100_000, "global_batch_tokens": TOKENS, "micro_batch_size": TOKENS // shape["seq_len"], "device": DEVICE}
    root = Path(tempfile.gettempdir()) / "luthier-gpu"  # its store remembers what works here, for the next shapes
    (root / "store").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        described = {"runs": {"root": str(root)}, "model": model, "pack": {"seq_len": shape["seq_len"]}, "pretrain": pretrain}
        subject = Subject.of(
            Recipe.model_validate(described | {"tokenizer": {"vocab_size": shape["vocab_size"]}}), Path(folder), Progress()
        )
        seconds = subject.loop(3 + steps)
        subject.close()
    return {"first": seconds[0], "step": statistics.median(seconds[3:]), "rows": subject.trainee.micro_batch_size}


def peer(who: str, shape: dict[str, Any], steps: int) -> dict[str, float]:
    """A peer's step in its best mode: compiled, bf16 by autocast, fused AdamW."""
    import torch
    from training_peers import Task, peers

    task = {key: value for key, value in shape.items() if key != "goal"}
    made = peers()[who](Task(**task, rows=TOKENS // shape["seq_len"], steps=1000, compiled=True, bf16=True, device=DEVICE))
    tokens = torch.randint(0, shape["vocab_size"], (TOKENS // shape["seq_len"], shape["seq_len"] + 1), device=DEVICE)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    seconds: list[float] = []
    for _ in range(3 + steps):
        torch.cuda.synchronize()
        started = time.perf_counter()
        made.train(inputs, targets)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"first": seconds[0], "step": statistics.median(seconds[3:]), "rows": TOKENS // shape["seq_len"]}


def measure(who: str, name: str, steps: int) -> dict[str, float]:
    """One measurement, in this process. Units: seconds, GiB, FLOP/s"""
    import torch

    from luthier.train.device import measure_matmul

    peak = measure_matmul(DEVICE, torch.bfloat16, size=8192, seconds=0.5)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    found = ours(SHAPES[name], steps) if who == "ours" else peer(who, SHAPES[name], steps)
    return {**found, "peak": peak, "gib": torch.cuda.max_memory_allocated() / 2**30}


def apart(arguments: list[str], limit: float) -> dict[str, Any]:
    """Run this file, or another, in a process of its own; what it said last, or why it said nothing."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT.parent), os.environ.get("PYTHONPATH")]))}
    try:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=environment)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
        return {"said": json.loads(done.stdout.strip().splitlines()[-1])}
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {limit:.0f} s"}
    except (OSError, ValueError, IndexError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


def flops_per_token(name: str) -> float:
    """FLOPs of a token's forward and backward, attention counted causally."""
    from luthier.config.load import resolve_model
    from luthier.config.schema import Recipe
    from luthier.plan.compute import training_flops_per_token

    shape = SHAPES[name]
    model = {key: shape[key] for key in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "vocab_size") if key in shape}
    described = {"model": model, "tokenizer": {"vocab_size": shape["vocab_size"]}, "pack": {"seq_len": shape["seq_len"]}}
    return training_flops_per_token(resolve_model(Recipe.model_validate(described)), shape["seq_len"])


def line(
    name: str, unit: str, ours: float | None, peer_name: str | None = None, peer: float | None = None, ratio: float | None = None,
    goal: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One row of the result; `ratio` above 1 means that ours is better."""
    met = None if goal is None or ratio is None else ratio >= goal
    return {"name": name, "unit": unit, "ours": ours, "peer_name": peer_name, "peer": peer, "ratio": ratio, "goal": goal, "met": met}


def compare(name: str, results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one shape."""
    rows = [line(f"{name}: {who} failed: {result['failed']}", "failed", None) for who, result in results.items() if "failed" in result]
    good = {who: result["said"] for who, result in results.items() if "said" in result}
    mine = good.pop("ours", None)
    work = flops_per_token(name) * TOKENS
    if mine is not None:
        share = work / mine["step"] / mine["peak"]
        rows.append(line(f"{name}: share of {mine['peak'] / 1e12:.0f} TFLOP/s", "share", share, None, None, share, SHAPES[name]["goal"]))
        rows.append(line(f"{name}: first step", "s", mine["first"]))
        wanted = TOKENS // SHAPES[name]["seq_len"]
        rows.append(line(f"{name}: rows at once that fitted", "rows", mine["rows"], "asked", wanted, mine["rows"] / wanted, 1.0))
    for who, theirs in good.items():
        share = work / theirs["step"] / theirs["peak"]
        rate = TOKENS / theirs["step"]
        if mine is None:
            rows.append(line(f"{name}: {who} alone, {share:.0%} of the rate", "tok/s", None, who, rate))
            continue
        faster, smaller = theirs["step"] / mine["step"], theirs["gib"] / mine["gib"]
        rows.append(line(f"{name}: tokens a second", "tok/s", TOKENS / mine["step"], f"{who} ({share:.0%})", rate, faster, GOAL_FASTER))
        rows.append(line(f"{name}: peak memory", "GiB", mine["gib"], who, theirs["gib"], smaller, 1.0))
    return rows


def attention(limit: float) -> list[dict[str, Any]]:
    """The rows of benchmarks/attention.py, where that file is."""
    if not (ROOT / "attention.py").exists():
        return [line("attention: benchmarks/attention.py is not there", "skipped", None)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT.parent), os.environ.get("PYTHONPATH")]))}
    try:
        command = [sys.executable, str(ROOT / "attention.py"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=environment)
        if "[" not in done.stdout:
            return [line(f"attention: {(done.stderr.strip().splitlines() or ['said nothing'])[-1][:300]}", "failed", None)]
        return json.loads(done.stdout[done.stdout.index("[") :])
    except (subprocess.TimeoutExpired, OSError, ValueError) as error:
        return [line(f"attention: {type(error).__name__}: {error}"[:300], "failed", None)]


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Write the rows to stdout."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for found in rows:
        mine = "" if found["ours"] is None else f"{found['ours']:.3f}" if found["ours"] < 100 else f"{found['ours']:,.0f}"
        theirs = "" if found["peer"] is None else f"{found['peer_name']} {found['peer']:,.2f}"
        ratio = "" if found["ratio"] is None else f"{found['ratio']:.2f} x"
        met = "" if found["met"] is None else f"goal {found['goal']:g}: {'met' if found['met'] else 'NOT MET'}"
        print(f"{found['name']:<44} {mine:>10} {found['unit']:<7} {theirs:<34} {ratio:<8} {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SHAPES, "attention"], default=[*SHAPES, "attention"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=540.0, help="begin nothing new after so many seconds")
    parser.add_argument("--limit", type=float, default=260.0, help="longest time of one measurement, in seconds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("WHO", "SHAPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        who, name = arguments.one
        print(json.dumps(measure(who, name, arguments.steps)))
        return
    if importlib.util.find_spec("torch") is None or not _has_cuda():
        print("gpu: torch finds no CUDA device here, nothing was measured")
        return
    end = time.monotonic() + arguments.seconds
    sys.path.insert(0, str(ROOT.parent))
    rows = [line(f"{who} is not installed here", "skipped", None) for who, module in PEERS.items() if not importlib.util.find_spec(module)]
    if not arguments.json:
        show(rows, False)
    for name in arguments.only:
        try:
            new = attention(max(1.0, min(arguments.limit, end - time.monotonic()))) if name == "attention" else _shape(name, arguments, end)
        except Exception as error:  # the other rows are still worth having
            new = [line(f"{name}: {type(error).__name__}: {error}"[:300], "failed", None)]
        rows += new
        if not arguments.json:
            show(new, False)
    if arguments.json:
        show(rows, True)


def _shape(name: str, arguments: argparse.Namespace, end: float) -> list[dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for who in ("ours", *(who for who, module in PEERS.items() if importlib.util.find_spec(module))):
        left = end - time.monotonic()
        if left < 20:
            results[who] = {"failed": "no time left"}
            continue
        words = [str(ROOT / "gpu.py"), "--steps", str(arguments.steps), "--one", who, name]
        results[who] = apart(words, min(arguments.limit, left))
    return compare(name, results)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
