"""Activation checkpointing: less kept for the backward pass, some computed again. In: a block, inputs. Out: its output. Next: decoder.

Source: Chen et al. 2016, arXiv:1604.06174; what `selective` keeps is what Korthikanti et al. 2022, arXiv:2205.05198, section 5, would
not compute twice: the dear products, not the cheap rest nor attention's scores.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["off", "blocks", "selective"]
_KEPT = ("aten::mm", "aten::addmm", "aten::_scaled_dot_product", "luthier::flash_attention", "flex_attention")
"""Beginnings of the names of operators whose results `selective` keeps."""


def run_block(block: nn.Module, recompute: Recompute, x: Tensor, *rest: Any) -> Tensor:
    """Call a block; while training keep of it what `recompute` says: all, its input alone, or the results of products and attention.

    Shapes: (B, T, D) -> (B, T, D)
    """
    if recompute == "off" or not torch.is_grad_enabled():
        return block(x, *rest)
    draws = block.training and bool(getattr(block, "dropout", 0.0))  # the same at random, when it is computed again
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": draws}
    if recompute == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    result = checkpoint(block, x, *rest, **options)
    assert isinstance(result, Tensor)
    return result


def _policy(context: Any, operator: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    """Keep what is dear to make for its size; scores, which are larger than what they are made of, are not."""
    name = operator.name()
    if name.startswith(_KEPT) or (name == "aten::bmm" and not _grows(arguments[0], arguments[1])):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _grows(a: Tensor, b: Tensor) -> bool:
    """Whether a product is larger than both its factors. Shapes: (n, i, k), (n, k, j)"""
    return a.shape[-1] < min(a.shape[-2], b.shape[-1])
