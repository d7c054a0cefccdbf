"""What saving costs a training, at 10M and at 100M parameters: ours in the background, against `torch.save` in the loop.

Each round trains the same steps three times, in turn: without a save, with ours, with the peer's (model and optimizer written by
`torch.save`, as small trainers do: not synced, not hashed, not read back). Reported are medians: how long the training thread stood
still, and what the save added to the whole, as a share of the default interval between checkpoints.

    python benchmarks/saving.py [--json] [--sizes 10M 100M] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from luthier.config.model import ModelConfig
from luthier.config.training import OptimSection, PretrainSection
from luthier.model.decoder import Decoder, initialise
from luthier.optim.build import build_optimizer
from luthier.pack.loader import Loader, Row
from luthier.runs.memory import keep_freed_memory
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.checkpoint import Identity
from luthier.train.device import require_same_bits, resolve_compute
from luthier.train.loop import Course, Trainee, fit
from luthier.train.objective import NextToken
from luthier.train.saving import Retention, Saver
from luthier.train.stopping import StopRequest

SIZES = {
    "10M": {"d_model": 256, "n_layers": 8, "n_heads": 4, "n_kv_heads": 4, "d_ff": 960, "vocab_size": 8192},
    "100M": {"d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12, "d_ff": 2048, "vocab_size": 16384},
}
ROWS, SEQ_LEN = 4, 1024
STEPS = {"10M": 8, "100M": 3}
INTERVAL = 60.0 * PretrainSection(steps=1).checkpoint_minutes


class RandomRows:
    """Rows whose content does not matter."""

    n_rows, seq_len = 4096, SEQ_LEN

    def row(self, index: int) -> Row:
        tokens = np.random.default_rng(index).integers(0, 8192, SEQ_LEN + 1)
        return tokens[:-1], tokens[1:], None

    def describe(self, index: int) -> list[dict[str, object]]:
        return []


class Bench:
    """One size's trainee and the three ways to train a few steps of it."""

    def __init__(self, size: str, folder: Path) -> None:
        rest = {"head_dim": 64, "max_seq_len": SEQ_LEN, "rope_theta": 1e4, "norm_eps": 1e-5, "tie_embeddings": True, "init_std": 0.02}
        compute = resolve_compute(PretrainSection(steps=1), 0)
        model = Decoder(ModelConfig.model_validate({**SIZES[size], **rest}), compute.dtype)
        initialise(model, 1)
        self.model, self.steps, self.folder, self.device = model.to(compute.device), STEPS[size], folder, compute.device
        self.parameters = sum(p.numel() for p in model.parameters())
        self.trainee = Trainee(model, build_optimizer(model, OptimSection()), ROWS)
        tokenizer = Tokenizer([(97, 98)], "gpt4")
        self.saver = Saver(folder, tokenizer, Identity("bench", "k"), Retention(1), print, 1e9)
        self.train(1)

    def train(self, steps: int) -> None:
        course = Course(self.trainee.step + steps, lambda step: 1.0, 1.0, self.device)
        fit(self.trainee, Loader(RandomRows(), ROWS, 1), NextToken(), course, [], StopRequest())

    def without(self) -> dict[str, float]:
        started = time.perf_counter()
        self.train(self.steps)
        return {"seconds": time.perf_counter() - started}

    def ours(self) -> dict[str, float]:
        stopped, writing, started = self.saver.cost.stopped_seconds, self.saver.cost.writing_seconds, time.perf_counter()
        self.saver.save(self.trainee, {"offsets": {}})
        self.train(self.steps)
        self.saver.finish()
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "stopped": self.saver.cost.stopped_seconds - stopped,
            "writing": self.saver.cost.writing_seconds - writing,
        }

    def peer(self) -> dict[str, float]:
        started = time.perf_counter()
        torch.save({"model": self.model.state_dict(), "optimizer": self.trainee.optimizer.state()}, self.folder / "ckpt.pt")
        stopped = time.perf_counter() - started
        self.train(self.steps)
        return {"seconds": time.perf_counter() - started, "stopped": stopped}


def measure(size: str, rounds: int) -> list[dict[str, object]]:
    """Run all rounds of one size; the first save of each way, which makes buffers and files, does not count."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(size, Path(folder))
        bench.ours(), bench.peer()
        taken = [(bench.without(), bench.ours(), bench.peer()) for _ in range(rounds)]
    plain = statistics.median(without["seconds"] for without, _, _ in taken)
    ours = {key: statistics.median(mine[key] for _, mine, _ in taken) for key in ("seconds", "stopped", "writing")}
    peer = {key: statistics.median(theirs[key] for _, _, theirs in taken) for key in ("seconds", "stopped")}
    added = (max(0.0, ours["seconds"] - plain), max(0.0, peer["seconds"] - plain))
    name = f"{size} ({bench.parameters:,} parameters)"
    return [
        row(f"{name}: training thread stands still", "s", ours["stopped"], peer["stopped"], None, None),
        row(
            f"{name}: its share of {INTERVAL:.0f} s", "share", ours["stopped"] / INTERVAL, peer["stopped"] / INTERVAL, 0.05, ours["stopped"]
        ),
        row(f"{name}: the save adds in all", "s", added[0], added[1], None, None),
        row(f"{name}: its share of {INTERVAL:.0f} s", "share", added[0] / INTERVAL, added[1] / INTERVAL, 0.02, added[0]),
        row(f"{name}: write, sync, hash, read back", "s", ours["writing"], None, None, None),
        row(f"{name}: {bench.steps} steps without a save", "s", plain, None, None, None),
    ]


def row(name: str, unit: str, ours: float, peer: float | None, goal: float | None, seconds: float | None) -> dict[str, object]:
    """One line of the result; a goal is the largest share of the default interval."""
    met = None if goal is None or seconds is None else seconds / INTERVAL < goal
    ratio = None if peer is None or ours == 0 else peer / ours
    name_of_peer = None if peer is None else "torch.save in the loop"
    return {"name": name, "unit": unit, "ours": ours, "peer_name": name_of_peer, "peer": peer, "ratio": ratio, "goal": goal, "met": met}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    require_same_bits()
    keep_freed_memory()
    rows = [line for size in arguments.sizes for line in measure(size, arguments.rounds)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for line in rows:
        peer = "" if line["peer"] is None else f"{line['peer']:.4f}"
        met = "" if line["met"] is None else f"goal < {line['goal']}: {'met' if line['met'] else 'NOT MET'}"
        print(f"{line['name']:<62}{line['ours']:>10.4f} {line['unit']:<6} torch.save {peer:<10}{met}")


if __name__ == "__main__":
    main()
