"""One trainee of the training benchmark, in a process of its own. In: orders, a line each. Out: a line of JSON for each.

    python benchmarks/training_worker.py WHO SETTINGS

Orders: `{"steps": n}` takes n steps and answers their seconds; `{"loss": n}` answers the mean loss over n validation tokens. SETTINGS say
the shape, the batch and the mode; with `folder` the tokens are those of `train.npy` and `validation.npy` there, otherwise random ones.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Worker(Protocol):
    def steps(self, count: int) -> list[float]: ...

    def loss(self, tokens: int) -> float: ...


class OfPeer:
    """A peer in training; batches are rows at random places, as nanoGPT draws them."""

    def __init__(self, who: str, settings: dict[str, Any]) -> None:
        import torch
        from training_peers import Task, peers

        self._folder = settings.pop("folder", None)
        self._task = Task(**{key: value for key, value in settings.items() if key != "recipe"})
        torch.manual_seed(1337)
        self._chance = np.random.default_rng(1337)
        self._peer = peers()[who](self._task)
        random = self._chance.integers(0, self._task.vocab_size, 1_000_000)
        self._tokens = np.load(Path(self._folder) / "train.npy") if self._folder else random
        self._torch = torch

    def _rows(self, tokens: np.ndarray, starts: np.ndarray) -> tuple[Any, Any]:
        rows = tokens[starts[:, None] + np.arange(self._task.seq_len + 1)].astype(np.int64)  # (B, T + 1)
        return self._torch.from_numpy(rows[:, :-1].copy()), self._torch.from_numpy(rows[:, 1:].copy())

    def steps(self, count: int) -> list[float]:
        seconds: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            starts = self._chance.integers(0, len(self._tokens) - self._task.seq_len, self._task.rows)
            self._peer.train(*self._rows(self._tokens, starts))
            seconds.append(time.perf_counter() - started)
        return seconds

    def loss(self, tokens: int) -> float:
        held = np.load(Path(self._folder) / "validation.npy")
        starts = np.arange(0, min(tokens, len(held) - 1) - self._task.seq_len + 1, self._task.seq_len)
        parts = np.array_split(starts, max(1, len(starts) * self._task.seq_len // 8192))
        losses = [self._peer.loss(*self._rows(held, part)) * len(part) for part in parts]
        return sum(losses) / len(starts)


class ArrayRows:
    """Consecutive rows of an array of tokens."""

    def __init__(self, tokens: np.ndarray, seq_len: int) -> None:
        self._tokens, self._seq_len = tokens, seq_len

    @property
    def n_rows(self) -> int:
        return (len(self._tokens) - 1) // self._seq_len

    @property
    def seq_len(self) -> int:
        return self._seq_len

    def row(self, index: int) -> Any:
        tokens = self._tokens[index * self._seq_len : (index + 1) * self._seq_len + 1].astype(np.int64)
        return tokens[:-1], tokens[1:], None

    def describe(self, index: int) -> list[dict[str, Any]]:
        return []


class Ours:
    """A recipe's training, through the functions of the stages."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from measuring import cache_folder

        from luthier.config.load import resolve_model
        from luthier.config.schema import Recipe
        from luthier.runs.progress import Progress
        from luthier.stages.bench import Subject

        store = cache_folder() / "runs" / "store"  # remembers that compiled code works here
        store.mkdir(parents=True, exist_ok=True)
        recipe = Recipe.model_validate({**settings["recipe"], "runs": {"root": str(store.parent)}})
        self._folder, self._seq_len = settings.get("folder"), recipe.pack.seq_len
        given = None
        if self._folder:
            rows = ArrayRows(np.load(Path(self._folder) / "train.npy"), self._seq_len)
            given = (resolve_model(recipe, settings["vocab_size"]), rows)
        self._temporary = tempfile.TemporaryDirectory()
        self._subject = Subject.of(recipe, Path(self._temporary.name), Progress(), given)

    def steps(self, count: int) -> list[float]:
        return self._subject.loop(count)

    def loss(self, tokens: int) -> float:
        from luthier.train.objective import mean_loss

        assert self._folder is not None
        model = self._subject.training.model.eval()
        held = ArrayRows(np.load(Path(self._folder) / "validation.npy"), self._seq_len)
        return mean_loss(model, held, self._subject.training.compute.device, tokens, 8192 // self._seq_len)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is none of it
    who, settings = sys.argv[1], json.loads(sys.argv[2])
    worker: Worker = Ours(settings) if who == "ours" else OfPeer(who, settings)
    for line in sys.stdin:
        order = json.loads(line)
        answer = {"seconds": worker.steps(order["steps"])} if "steps" in order else {"loss": worker.loss(order["loss"])}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
