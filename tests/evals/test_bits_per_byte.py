"""Bits per byte against a direct computation, one window at a time and all logits at once."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from luthier.evals import bits_per_byte
from luthier.evals.bits_per_byte import evaluate
from luthier.model.decoder import Decoder
from luthier.runs.progress import Bar
from luthier.tokenizer.tokenizer import Tokenizer
from tests.small import SENTENCES


class Shards:
    """A stream of tokens in memory."""

    def __init__(self, tokens: list[int], end: int) -> None:
        self.tokens, self.end, self.reads = np.array(tokens, dtype=np.int64), end, list[tuple[int, int]]()
        self.n_tokens = len(tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        assert start >= 0 and start + count <= self.n_tokens
        self.reads.append((start, count))
        return self.tokens[start : start + count]

    def doc_ids(self, start: int, count: int) -> np.ndarray:
        before = np.concatenate([[0], np.cumsum(self.tokens == self.end)[:-1]])[start : start + count]
        return (before - before[0]).astype(np.int32)


@pytest.fixture
def shards(tokenizer: Tokenizer) -> Any:
    ids: list[int] = []
    for i in range(12):
        ids += [*tokenizer.encode(SENTENCES[i % 3] + " né 中文"[: i % 7]), tokenizer.special.end_of_text]
    return Shards(ids, tokenizer.special.end_of_text)


def direct(model: Decoder, tokens: np.ndarray, window: int, end: int | None = None) -> float:
    """Sum of -log p over all targets, in fp64 from the logits on, document by document where `end` is given."""
    total = 0.0
    for start in range(0, len(tokens) - 1, window):
        part = torch.from_numpy(tokens[start : start + window + 1])
        pieces = [part]
        if end is not None:
            cuts = [0, *(i + 1 for i in range(len(part) - 1) if part[i] == end), len(part) - 1]
            pieces = [part[a : b + 1] for a, b in pairwise(cuts) if b > a]
        for piece in pieces:
            with torch.no_grad():
                logits = model.logits(model(piece[None, :-1]))[0].double()
            total -= logits.log_softmax(-1).gather(1, piece[1:, None]).sum().item()
    return total


@pytest.mark.parametrize("max_tokens", [None, 2, 24, 25, 26, 49, 100])
def test_equals_the_direct_computation(model: Decoder, shards: Any, tokenizer: Tokenizer, max_tokens: int | None) -> None:
    n = min(max_tokens or shards.n_tokens, shards.n_tokens)
    bar = Bar("eval", None, "tokens")
    found = evaluate(model, shards, tokenizer.byte_lengths, "cpu", max_tokens, bar)
    expected = direct(model, shards.tokens[:n], model.config.max_seq_len)
    n_bytes = len(tokenizer.decode_bytes(shards.tokens[1:n]))
    assert found["tokens"] == n - 1 == bar.done
    assert found["bytes"] == n_bytes
    assert found["val_loss"] == pytest.approx(expected / (n - 1), rel=1e-6)
    assert found["val_bpb"] == pytest.approx(expected / math.log(2) / max(1, n_bytes), rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(found["val_loss"]))


def test_each_target_once(model: Decoder, shards: Any, tokenizer: Tokenizer) -> None:
    evaluate(model, shards, tokenizer.byte_lengths, "cpu")
    targets = [i for start, count in shards.reads for i in range(start + 1, start + count)]
    assert targets == list(range(1, shards.n_tokens))


@pytest.mark.parametrize(("at_once", "chunk"), [(24, 1), (48, 7), (10_000, 100_000)])
def test_portions_and_chunks_do_not_matter(
    model: Decoder, shards: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int, chunk: int
) -> None:
    before = evaluate(model, shards, tokenizer.byte_lengths, "cpu")
    monkeypatch.setattr(bits_per_byte, "TOKENS_AT_ONCE", at_once)
    monkeypatch.setattr(bits_per_byte, "HEAD_CHUNK_TOKENS", chunk)
    assert evaluate(model, shards, tokenizer.byte_lengths, "cpu") == pytest.approx(before, rel=1e-6)


def test_document_mask_sees_each_document_alone(model: Decoder, shards: Any, tokenizer: Tokenizer) -> None:
    masked = evaluate(model, shards, tokenizer.byte_lengths, "cpu", document_mask=True)
    expected = direct(model, shards.tokens, model.config.max_seq_len, end=shards.end)
    assert masked["val_loss"] == pytest.approx(expected / (shards.n_tokens - 1), rel=1e-6)
    assert masked["val_loss"] != pytest.approx(evaluate(model, shards, tokenizer.byte_lengths, "cpu")["val_loss"], rel=1e-6)


def test_special_tokens_cost_but_weigh_nothing(model: Decoder, tokenizer: Tokenizer) -> None:
    end = tokenizer.special.end_of_text
    found = evaluate(model, Shards([end] * 30, end), tokenizer.byte_lengths, "cpu")  # type: ignore[arg-type]
    assert found["bytes"] == 0 and found["val_loss"] > 0


def test_a_model_that_knows_nothing_needs_log2_v_per_token(model: Decoder, shards: Any, tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        model.norm.weight.zero_()
    found = evaluate(model, shards, tokenizer.byte_lengths, "cpu")
    assert found["val_loss"] == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-6)
    assert found["val_bpb"] == pytest.approx(math.log2(tokenizer.vocab_size) * found["tokens"] / found["bytes"], rel=1e-6)


def test_logits_are_never_whole(model: Decoder, shards: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits_per_byte, "HEAD_CHUNK_TOKENS", 5)
    logits, sizes = model.logits, list[int]()
    monkeypatch.setattr(model, "logits", lambda hidden: sizes.append(len(hidden)) or logits(hidden))
    evaluate(model, shards, tokenizer.byte_lengths, "cpu")
    assert max(sizes) == 5
