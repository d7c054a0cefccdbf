"""Activation checkpointing changes what is kept, never what is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from luthier.model.decoder import Decoder, initialise
from luthier.model.recompute import Recompute
from tests.small import small_shape


def gradients(kind: Recompute, attention: str, dtype: torch.dtype) -> tuple[Tensor, int]:
    """All gradients of one step, and the bytes kept for its backward pass (what belongs to the model is not counted)."""
    model = Decoder(small_shape(n_layers=4, init_std=0.1), dtype, attention)
    initialise(model, 3)
    model.checkpointing = kind
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = torch.randint(97, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.logits(model(inputs)).square().mean()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), sum(kept.values())


@pytest.mark.parametrize("attention", ["auto", "sdpa", "naive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_bits(attention: str, dtype: torch.dtype) -> None:
    plain, all_of_it = gradients("off", attention, dtype)
    blocks, inputs_only = gradients("blocks", attention, dtype)
    selective, _ = gradients("selective", attention, dtype)
    assert plain.abs().max() > 0
    assert torch.equal(plain, blocks) and torch.equal(plain, selective)
    assert inputs_only < 0.5 * all_of_it


def test_an_answer_is_made_as_ever() -> None:
    model = Decoder(small_shape())
    initialise(model, 3)
    inputs = torch.arange(8)[None]
    with torch.inference_mode():
        before = model(inputs)
        model.checkpointing = "selective"
        assert torch.equal(model(inputs), before)
