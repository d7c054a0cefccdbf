"""Verb bench: what a training step of a recipe is made of, measured. In: a recipe. Out: milliseconds by part, tokens/s, memory.

Everything is the recipe's own and goes through the functions that pretraining uses; only what is written goes to a temporary folder.
Steps of the loop as it is alternate with steps taken apart.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luthier.config.load import resolve_model
from luthier.config.model import ModelConfig
from luthier.config.schema import Recipe
from luthier.errors import LuthierError
from luthier.pack.loader import Loader, Row, RowSource
from luthier.pack.rows import training_rows
from luthier.pack.shards import TokenShards
from luthier.plan.compute import training_flops_per_token
from luthier.plan.horizon import steps_for
from luthier.plan.parameters import count
from luthier.runs.progress import Progress, number, progress_for
from luthier.runs.store import StageRecord, Store
from luthier.stages.arguments import recipe_from
from luthier.stages.order import load_stage
from luthier.stages.output import print_json, print_rows
from luthier.stages.pipeline import address
from luthier.stages.pretrain import start
from luthier.stages.recorder import Recorder, Training
from luthier.stages.stage import Job
from luthier.stages.training import begin
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.device import measure_matmul, memory_gib, synchronise
from luthier.train.guards import clip_gradients
from luthier.train.loop import Course, Every, Moment, Trainee, fit
from luthier.train.objective import NextToken, micro_batches
from luthier.train.parallel import ALONE
from luthier.train.prefetch import Prefetch
from luthier.train.stopping import StopRequest

LONG = 100_000
"""Steps that a horizon in epochs counts as while the text is not packed; only a few are taken."""
PARTS: tuple[str, ...] = ("data", "forward", "backward", "clip", "optimizer", "logging")


class RandomRows:
    """Rows of random tokens, for a recipe whose text is not packed yet."""

    def __init__(self, vocab_size: int, seq_len: int, document_mask: bool, n_rows: int = 4096) -> None:
        self._vocab_size, self._seq_len, self._document_mask, self._n_rows = vocab_size, seq_len, document_mask, n_rows

    @property
    def n_rows(self) -> int:
        return self._n_rows

    @property
    def seq_len(self) -> int:
        return self._seq_len

    def row(self, index: int) -> Row:
        chance = np.random.default_rng(index)
        tokens = chance.integers(0, self._vocab_size, self._seq_len + 1)  # (T + 1,)
        doc_ids = np.cumsum(chance.random(self._seq_len) < 4 / self._seq_len).astype(np.int32) if self._document_mask else None
        return tokens[:-1], tokens[1:], doc_ids

    def describe(self, index: int) -> list[dict[str, Any]]:
        return []


@dataclass
class Subject:
    """A training that is ready to be measured."""

    training: Training
    trainee: Trainee
    loader: Loader
    batches: Prefetch
    objective: NextToken
    recorder: Recorder
    random_tokens: bool

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, progress: Progress, given: tuple[ModelConfig, RowSource] | None = None) -> Subject:
        """Make a recipe's model and optimizer; shape and rows are `given`, packed, or random; `folder` takes what is written."""
        store = Store(Path(recipe.runs.root))
        settings = recipe.pretrain.model_copy(update={"batch_warmup_start": None, "batch_warmup_tokens": None})  # the last size
        packed = given or (_packed(recipe, store) if store.root.exists() else None)
        config, rows = packed or _random(recipe)
        job = Job(recipe, "bench", folder, {}, {}, store.cache if store.root.exists() else folder, progress)
        train_tokens = rows.n_rows * rows.seq_len if packed else None
        steps = steps_for(settings, count(config)["total"], rows.seq_len, train_tokens) or LONG
        model, compute, course = start(job, config, steps)
        unused = Tokenizer([(97, 98)], "gpt4")  # checkpoints hold one, and none is saved
        training = Training(job, "pretrain", settings, recipe.optim, model, unused, rows, steps, compute, course, dict, list)
        trainee, loader, identity, _ = begin(training, ALONE)
        with Progress().bar("bench", None, "tokens") as bar:
            recorder = Recorder(training, trainee, bar, None, identity, 1)
        objective = NextToken(compute.compiled, settings.label_smoothing, settings.z_loss, model.config.logit_softcap)
        return cls(training, trainee, loader, Prefetch(loader), objective, recorder, packed is None)

    @property
    def tokens_per_step(self) -> int:
        return self.loader.rows_per_step * self.training.rows.seq_len

    def close(self) -> None:
        self.recorder.close()
        self.batches.close()

    def _log(self, moment: Moment) -> None:
        """Write a step's line, as training does; evaluation, samples and checkpoints come too seldom to be part of a step."""
        self.recorder.hooks()[0].action(moment)

    def loop(self, steps: int) -> list[float]:
        """Run the loop; give each step's time, hooks included. Units: seconds"""
        device, clip = self.training.compute.device, self.training.optim.grad_clip
        course = Course(self.trainee.step + steps, self.training.lr_scale, clip, device)
        ends = [time.perf_counter()]

        def note(moment: Moment) -> None:
            self._log(moment)
            ends.append(time.perf_counter())

        fit(self.trainee, self.batches, self.objective, course, [Every(1, note)], StopRequest())
        return np.diff(ends).tolist()

    def apart(self) -> dict[str, float]:
        """Take one step part by part. Units: seconds"""
        trainee, device = self.trainee, self.training.compute.device
        spent = dict.fromkeys(PARTS, 0.0)
        last = time.perf_counter()

        def note(part: str) -> None:
            nonlocal last
            synchronise(device)
            now = time.perf_counter()
            spent[part] += now - last
            last = now

        trainee.model.train()
        batch = self.batches.batch(trainee.cursor)
        parts = micro_batches(batch, trainee.micro_batch_size, device)
        note("data")
        total = 0.0
        for part in parts:
            loss = self.objective(trainee.forward, trainee.model.head_weight, part, batch.n_loss_tokens)
            note("forward")
            (loss if trainee.scaler is None else loss * trainee.scaler.scale).backward()
            note("backward")
            total += loss.item()
        if trainee.scaler is not None:
            trainee.scaler.unscale(trainee.model)
        norm = clip_gradients(trainee.model, self.training.optim.grad_clip)
        note("clip")
        scale = self.training.lr_scale(trainee.step)
        trainee.optimizer.step(scale)
        trainee.model.zero_grad(set_to_none=True)
        note("optimizer")
        trainee.step, trainee.cursor = trainee.step + 1, trainee.cursor + 1
        trainee.tokens_seen += batch.inputs.size
        self._log(Moment(trainee.step, LONG, total, norm, scale, batch.inputs.size, trainee.tokens_seen, 1.0, False))
        note("logging")
        return spent


def _random(recipe: Recipe) -> tuple[ModelConfig, RowSource]:
    config = resolve_model(recipe)
    return config, RandomRows(config.vocab_size, recipe.pack.seq_len, recipe.pretrain.document_mask)


def _packed(recipe: Recipe, store: Store) -> tuple[ModelConfig, RowSource] | None:
    """The recipe's own training rows, where an earlier run has packed them."""
    records: dict[str, StageRecord] = {}
    with contextlib.suppress(LuthierError):
        for name in ("data", "tokenizer", "pack"):
            key, _ = address(load_stage(name, recipe), recipe, store, records)
            record = store.finished(name, key)
            if record is None:
                return None
            records[name] = record
        train = TokenShards.open(store.directory("pack", records["pack"].key), "train")
        tokenizer = Tokenizer.load(store.directory("tokenizer", records["tokenizer"].key) / "tokenizer.json")
        return resolve_model(recipe, tokenizer.vocab_size), training_rows(
            train, recipe.pack.rows, recipe.pack.seq_len, recipe.pretrain.document_mask
        )
    return None


def anatomy(recipe: Recipe, steps: int, progress: Progress) -> dict[str, Any]:
    """Measure a recipe's training step on this machine.

    Units: milliseconds, medians over `steps`; FLOP/s; GiB, the process's peak; seconds of compiling, the first step's surplus
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Subject.of(recipe, Path(folder), progress)) as subject:
        config, compute, seq_len = subject.training.model.config, subject.training.compute, subject.training.rows.seq_len
        progress.say(f"bench: {count(config)['total']:,} parameters, {subject.tokens_per_step:,} tokens a step, {steps} steps twice")
        first = subject.loop(2)[0]
        taken = [(subject.loop(1)[0], subject.apart()) for _ in range(steps)]  # in turn: what slows the machine slows both
        step = statistics.median(whole for whole, _ in taken)
        parts = {part: statistics.median(apart[part] for _, apart in taken) * 1e3 for part in PARTS}
        peak = measure_matmul(compute.device, compute.dtype, size=8192 if compute.device == "cuda" else 1024)
        rate = subject.tokens_per_step / step
        return {
            "name": recipe.run.name,
            "params": count(config)["total"],
            **compute.as_dict(),
            "optimizer": recipe.optim.name,
            "seq_len": seq_len,
            "activation_checkpointing": recipe.pretrain.activation_checkpointing,
            "rows_per_step": subject.loader.rows_per_step,
            "micro_batch_size": subject.trainee.micro_batch_size,
            "tokens_per_step": subject.tokens_per_step,
            "random_tokens": subject.random_tokens,
            "steps": steps,
            "step_ms": step * 1e3,
            "parts_ms": parts,
            "tok_per_s": rate,
            "peak_flops": peak,
            "mfu": rate * training_flops_per_token(config, seq_len) / peak,
            "mem_gib": memory_gib(compute.device),
            "compile_seconds": max(0.0, first - step) if compute.compiled else 0.0,
        }


def bench_verb(arguments: Sequence[str], steps: int, *, as_json: bool) -> None:
    """Print the anatomy of a recipe's training step."""
    recipe, _ = recipe_from(arguments)
    found = anatomy(recipe, steps, progress_for())
    if as_json:
        print_json(found)
    else:
        print_rows(_plain(found))


def _plain(found: dict[str, Any]) -> list[tuple[str, str]]:
    batch = f"{found['rows_per_step']} rows of {found['seq_len']}, {found['micro_batch_size']} at once"
    how = f"{found['device']}, {found['precision']}, {'compiled' if found['compiled'] else 'not compiled'}, {found['threads']} threads"
    if found["activation_checkpointing"] != "off":
        how += f", activation checkpointing: {found['activation_checkpointing']}"
    rows = [
        ("model", f"{number(found['params'])} parameters, {found['optimizer']}"),
        ("computed", how),
        ("batch", f"{batch}{', random tokens' if found['random_tokens'] else ''}"),
    ]
    whole = sum(found["parts_ms"].values())
    rows += [(part, f"{ms:9.2f} ms {ms / whole:6.1%}") for part, ms in found["parts_ms"].items()]
    rows += [
        ("step", f"{found['step_ms']:9.2f} ms as the loop does it"),
        ("speed", f"{found['tok_per_s']:,.0f} tokens/s, {found['mfu']:.0%} of {found['peak_flops'] / 1e9:,.0f} GFLOP/s measured"),
        ("memory", f"{found['mem_gib']:.2f} GiB at most"),
    ]
    if found["compiled"]:
        rows.append(("compiling", f"{found['compile_seconds']:.1f} s"))
    return rows
