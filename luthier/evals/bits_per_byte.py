"""Loss in nats per token and bits per byte. In: a model and token shards. Out: figures. Next: report.

Bits per byte compares models with different tokenizers: the whole loss, that of special tokens included, over the bytes of the text.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from luthier.model.decoder import Decoder
from luthier.pack.shards import TokenShards
from luthier.runs.progress import Bar

WINDOWS_AT_ONCE = 16


@torch.inference_mode()
def evaluate(
    model: Decoder,
    shards: TokenShards,
    byte_lengths: np.ndarray,
    device: str,
    max_tokens: int | None = None,
    bar: Bar | None = None,
) -> dict[str, float | int]:
    """Predict each token once, in consecutive windows of the model's context, from the first `max_tokens` tokens.

    Special tokens have no bytes, but their loss counts: ending a document has to be predicted too.

    Units: val_loss in nats per token, val_bpb in bits per byte
    """
    window = model.config.max_seq_len
    n_targets = min(shards.n_tokens, max_tokens or shards.n_tokens) - 1
    total, n_bytes = 0.0, 0
    whole = n_targets // window
    for start in range(0, whole, WINDOWS_AT_ONCE):
        count = min(WINDOWS_AT_ONCE, whole - start)
        tokens = shards.read(start * window, count * window + 1)
        targets = tokens[1:].reshape(count, window)
        total += _loss(model, tokens[:-1].reshape(count, window), targets, device)
        n_bytes += int(byte_lengths[targets].sum())
        if bar is not None:
            bar.advance(targets.size)
    rest = n_targets - whole * window
    if rest:
        tokens = shards.read(whole * window, rest + 1)
        total += _loss(model, tokens[None, :-1], tokens[None, 1:], device)
        n_bytes += int(byte_lengths[tokens[1:]].sum())
        if bar is not None:
            bar.advance(rest)
    loss = total / max(1, n_targets)
    return {
        "val_loss": loss,
        "val_bpb": total / math.log(2) / max(1, n_bytes),
        "perplexity": math.exp(min(loss, 700.0)),
        "tokens": n_targets,
        "bytes": n_bytes,
    }


def _loss(model: Decoder, inputs: np.ndarray, targets: np.ndarray, device: str) -> float:
    """Sum of the losses of some windows, in fp64; the head runs over one window at a time.

    Shapes: inputs and targets (n, T)
    """
    hidden = model(torch.from_numpy(np.ascontiguousarray(inputs)).to(device))  # (n, T, D)
    goal = torch.from_numpy(np.ascontiguousarray(targets)).to(device)
    losses = [F.cross_entropy(model.logits(h), t, reduction="sum").double() for h, t in zip(hidden, goal, strict=True)]
    return float(torch.stack(losses).sum())
