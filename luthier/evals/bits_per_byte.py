"""Loss in nats per token and bits per byte. In: a model and token shards. Out: figures. Next: report.

Bits per byte compares models with different tokenizers: the whole loss, that of special tokens included, over the bytes of the text.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.model.decoder import Decoder
from luthier.pack.shards import TokenShards
from luthier.runs.progress import Bar
from luthier.train.device import within_memory

TOKENS_AT_ONCE = 4096
HEAD_CHUNK_TOKENS = 1024
"""Tokens whose logits are in memory at one time."""


@torch.inference_mode()
def evaluate(
    model: Decoder,
    shards: TokenShards,
    byte_lengths: np.ndarray,
    device: str,
    max_tokens: int | None = None,
    bar: Bar | None = None,
    document_mask: bool = False,
) -> dict[str, float | int]:
    """Predict each token once, in consecutive windows of the model's context, from the first `max_tokens` tokens.

    The very first token has nothing before it and is not predicted. Special tokens have no bytes, but their loss counts: ending a
    document has to be predicted too. `document_mask` hides a window's other documents, as in training with that setting.

    Units: val_loss in nats per token, val_bpb in bits per byte
    """
    at_once = max(1, TOKENS_AT_ONCE // model.config.max_seq_len)
    n_targets = max(2, min(shards.n_tokens, max_tokens or shards.n_tokens)) - 1

    def attempt(rows_at_once: int) -> tuple[float, int]:
        total, n_bytes = 0.0, 0
        for start, rows, length in _portions(n_targets, model.config.max_seq_len, rows_at_once):
            count = rows * length
            tokens = shards.read(start, count + 1)
            doc_ids = shards.doc_ids(start, count).reshape(rows, length) if document_mask else None
            total += _loss(model, tokens[:-1].reshape(rows, length), tokens[1:], doc_ids, device)
            n_bytes += int(byte_lengths[tokens[1:]].sum())
            if bar is not None:
                bar.advance(count)
        return total, n_bytes

    (total, n_bytes), _ = within_memory(attempt, at_once, device)
    loss = total / n_targets
    return {
        "val_loss": loss,
        "val_bpb": total / math.log(2) / max(1, n_bytes),
        "perplexity": math.exp(min(loss, 700.0)),
        "tokens": n_targets,
        "bytes": n_bytes,
    }


def _portions(n_targets: int, window: int, at_once: int) -> list[tuple[int, int, int]]:
    """Cut the stream into batches of whole windows and a shorter last one: (first input, rows, length of a row)."""
    whole, rest = divmod(n_targets, window)
    portions = [(first * window, min(at_once, whole - first), window) for first in range(0, whole, at_once)]
    return [*portions, (whole * window, 1, rest)] if rest else portions


def _loss(model: Decoder, inputs: np.ndarray, targets: np.ndarray, doc_ids: np.ndarray | None, device: str) -> float:
    """Sum the losses of some windows, in fp64.

    Shapes: inputs and doc_ids (n, T), targets (n * T,)
    """
    hidden = model(_tensor(inputs, device), doc_ids=None if doc_ids is None else _tensor(doc_ids, device)).flatten(0, 1)  # (n * T, D)
    parts = zip(hidden.split(HEAD_CHUNK_TOKENS), _tensor(targets, device).split(HEAD_CHUNK_TOKENS), strict=True)
    return sum(F.cross_entropy(model.logits(h), t, reduction="none").double().sum().item() for h, t in parts)


def _tensor(array: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)
