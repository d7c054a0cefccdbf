"""However a batch is cut, packed or masked, it is the same batch; and it is made where it is used."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.errors import DataError
from luthier.pack.conversations import ConversationRows, fit, pack_conversations
from luthier.pack.loader import IGNORE_INDEX, Batch, Loader, Row, gather
from luthier.tasks.conversation import Conversation, Message
from luthier.train.loop import Course, Every, Trainee, accumulate
from luthier.train.loop import fit as fit_model
from luthier.train.objective import NextToken, mean_loss
from luthier.train.prefetch import Prefetch
from luthier.train.stopping import StopRequest
from tests.small import small_shape, small_tokenizer
from tests.stages.conftest import make_tiny
from tests.train.small_training import Rows, trainee

ROOT = Path(__file__).resolve().parents[2]


class ManyRows(Rows):
    """Rows of several documents."""

    n_rows = 32

    def row(self, index: int) -> Row:
        inputs, targets, _ = super().row(index)
        return inputs, targets, np.sort((np.arange(16) * (index + 3)) % 4).astype(np.int32)


def gradients(who: Trainee, batch: Batch, rows: int) -> tuple[float, list[torch.Tensor]]:
    loss = accumulate(who, NextToken(), batch, batch.n_loss_tokens, rows, "cpu")
    return loss, [p.grad.clone() for p in who.model.parameters() if p.grad is not None]


def test_one_micro_batch_of_32_equals_4_of_8_and_32_of_1() -> None:
    """C6."""
    batch = Loader(ManyRows(), 32, seed=1).batch(0)
    assert batch.doc_ids is not None and len(np.unique(batch.targets == IGNORE_INDEX)) == 2
    whole, expected = gradients(trainee(), batch, 32)
    for rows in (8, 1):
        loss, found = gradients(trainee(), batch, rows)
        assert math.isclose(loss, whole, rel_tol=1e-6)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


class OneConversationARow:
    """The same conversations without packing: each in a row of its own, padded."""

    def __init__(self, rendered: list[tuple[list[int], list[bool]]], seq_len: int, pad: int) -> None:
        self._rendered, self.seq_len, self._pad = rendered, seq_len, pad

    @property
    def n_rows(self) -> int:
        return len(self._rendered)

    def describe(self, index: int) -> list[dict[str, Any]]:
        return []

    def row(self, index: int) -> Row:
        ids, mask = self._rendered[index]
        tokens = np.full(self.seq_len + 1, self._pad, np.int64)
        targets = np.full(self.seq_len, IGNORE_INDEX, np.int64)
        tokens[: len(ids)] = ids
        counted = np.flatnonzero(mask[1:])
        targets[counted] = tokens[counted + 1]
        return tokens[:-1], targets, None


def test_packed_conversations_give_the_loss_of_unpacked_ones(tmp_path: Path) -> None:
    """C6."""
    tokenizer = small_tokenizer()
    texts = [
        "The violin has four strings.",
        "A river flows.",
        "Spruce",
        "The sea is salt, the river is not. " * 2,
        "Music is sound in time.",
    ]
    conversations = [
        Conversation((Message("user", f"What about {number}? {text}"), Message("assistant", texts[-number % 5])), "s", str(number))
        for number, text in enumerate(texts * 3)
    ]
    report = pack_conversations(conversations, tokenizer, 128, tmp_path, "train")
    packed = ConversationRows.open(tmp_path, "train")
    rendered = [fit(conversation.messages, tokenizer, 129)[:2] for conversation in conversations]
    unpacked = OneConversationARow(rendered, 128, tokenizer.special.pad)
    assert report["truncated"] == report["dropped"] == 0 and packed.n_rows < unpacked.n_rows

    losses, found = [], []
    for rows in (packed, unpacked):
        who = trainee()
        who.model = type(who.model)(small_shape(vocab_size=tokenizer.vocab_size, init_std=0.2))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in who.model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
        who.forward = who.model
        batch = gather(rows, np.arange(rows.n_rows))
        loss, grads = gradients(who, batch, 4)
        losses.append(loss)
        found.append(grads)
        assert math.isclose(mean_loss(who.model, rows, "cpu", 10_000), loss, rel_tol=1e-6)
    assert math.isclose(losses[0], losses[1], rel_tol=1e-6) and losses[0] > 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_batch_without_any_target_is_trained_through_without_a_nan() -> None:
    """C5."""

    class Masked(Rows):
        def row(self, index: int) -> Row:
            inputs, targets, _ = super().row(index)
            return inputs, np.full_like(targets, IGNORE_INDEX), None

    who = trainee()
    losses: list[float] = []
    course = Course(3, lambda step: 1.0, 1.0, "cpu")
    fit_model(who, Loader(Masked(), 8, 1), NextToken(), course, [Every(1, lambda moment: losses.append(moment.loss))], StopRequest())
    assert losses == [0.0] * 3
    assert all(torch.isfinite(p).all() for p in who.model.parameters())


def test_a_token_outside_the_vocabulary_stops_before_the_model() -> None:
    """C4."""

    class Wrong(Rows):
        def row(self, index: int) -> Row:
            inputs, targets, none = super().row(index)
            inputs = inputs.copy()
            inputs[3] = 97 if index == 11 else inputs[3]
            return inputs, targets, none

        def describe(self, index: int) -> list[dict[str, Any]]:
            return [{"shard": "train-00000.bin", "document": 1000 + index, "first_token": 0, "tokens": 17}]

    who = trainee()
    before = [p.clone() for p in who.model.parameters()]
    loader = Loader(Wrong(), 40, 1, who.model.config.vocab_size)
    with pytest.raises(DataError, match=r"row 11, position 3: token id 97 .* document 1011 in train-00000\.bin"):
        fit_model(who, loader, NextToken(), Course(1, lambda step: 1.0, 1.0, "cpu"), [], StopRequest())
    assert all(torch.equal(a, b) for a, b in zip(before, who.model.parameters(), strict=True))


def test_rows_are_read_in_the_process_that_trains() -> None:
    """A10. There are no loader workers that could be killed: the thread that makes the next batch lives and dies with the process."""
    seen: set[tuple[int, str]] = set()

    class Watched(Rows):
        def row(self, index: int) -> tuple[np.ndarray, np.ndarray, None]:
            seen.add((os.getpid(), threading.current_thread().name))
            return super().row(index)

    with Prefetch(Loader(Watched(), 8, 1)) as batches:
        fit_model(trainee(), batches, NextToken(), Course(2, lambda step: 1.0, 1.0, "cpu"), [], StopRequest())
    assert seen == {(os.getpid(), "batches_0")} and multiprocessing.active_children() == []


def test_a_training_run_starts_no_process(tmp_path: Path) -> None:
    """A10. Only git and uname are asked once, for the record; nothing that training waits for can be killed beside it."""
    arguments = ["pretrain", *make_tiny(tmp_path), "pretrain.steps=3", "pretrain.compile=off", "pretrain.sample_prompts=[]", "--json"]
    code = f"""
import json, sys
started = []
sys.addaudithook(lambda event, said: started.append([event, str(said)]) if event.startswith(("os.fork", "os.posix_spawn", "os.spawn",
    "subprocess.Popen", "os.system")) else None)
from luthier.cli import call
code = call({arguments!r})
print(json.dumps(started), file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    started = json.loads(done.stderr.splitlines()[-1])
    assert {said.split("'")[1] for _, said in started} <= {"git", "uname"}, started
