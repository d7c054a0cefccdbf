"""Noise on embeddings: its size by document, only while training, and gone without alpha."""

from __future__ import annotations

import torch

from luthier.model.layers import embedding_noise
from tests.small import small_decoder


def test_size_follows_the_length_of_each_document() -> None:
    x, doc_ids = torch.zeros(1, 80, 50), torch.tensor([[0] * 64 + [1] * 16])
    torch.manual_seed(1)
    noise = embedding_noise(x, doc_ids, 5.0)
    for part, length in ((noise[:, :64], 64), (noise[:, 64:], 16)):
        largest = 5.0 / (length * 50) ** 0.5
        assert part.abs().max() <= largest and part.abs().max() > 0.95 * largest
        assert abs(part.mean()) < 0.05 * largest
    assert embedding_noise(x, None, 5.0).abs().max() <= 5.0 / (80 * 50) ** 0.5


def test_only_training_is_disturbed() -> None:
    model, ids = small_decoder(), torch.randint(0, 97, (2, 12))
    plain = model(ids)
    model.neftune_alpha = 5.0
    assert torch.equal(model(ids), plain)
    model.train()
    torch.manual_seed(1)
    one = model(ids)
    torch.manual_seed(1)
    assert torch.equal(model(ids), one) and not torch.allclose(one, plain)
    model.neftune_alpha = 0.0
    assert torch.equal(model(ids), plain)
