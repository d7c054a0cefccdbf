"""Every combination of the decoder's switches generates as it computes, keeps documents apart, compiles and learns."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from luthier.config.load import resolve_model, validate
from luthier.config.model import ModelSection
from luthier.errors import ConfigError
from luthier.model.attention import one_late
from luthier.model.cache import KVCache
from luthier.model.decoder import Decoder, initialise
from luthier.model.layers import positions_in_documents
from luthier.model.weights import weights_sha256
from tests.small import small_decoder, small_shape
from tests.switches import draw_switches, shake

SOME: list[dict[str, Any]] = [
    {"norm": "layernorm", "mlp": "gelu", "bias": True, "positions": "learned", "d_ff": 128},
    {"mlp": "relu2", "qk_norm": True, "residual_scalars": True, "value_embeddings": True, "key_offset": True, "logit_softcap": 15.0},
    {"mlp": "gelu", "bias": True, "positions": ("none", "alibi"), "windows": (0, 9)},
]


@pytest.mark.parametrize("i", range(24))
def test_a_cache_equals_recomputing(i: int) -> None:
    model = shake(small_decoder(**draw_switches(random.Random(i))))
    ids = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(2))
    cache = KVCache(model.config, 2, 40, "cpu")
    with torch.inference_mode():
        whole = model.logits(model(ids))
        parts = [model.logits(model(ids[:, a:b], cache=cache)) for a, b in ((0, 20), (20, 21), (21, 39), (39, 40))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("i", range(8))
def test_documents_are_what_they_are_alone(i: int) -> None:
    model = shake(small_decoder(**draw_switches(random.Random(100 + i))))
    a, b = torch.randint(0, 97, (1, 11)), torch.randint(0, 97, (1, 17))
    with torch.inference_mode():
        packed = model(torch.cat([a, b], 1), doc_ids=torch.tensor([[3] * 11 + [1] * 17]))
        torch.testing.assert_close(packed[:, :11], model(a), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(packed[:, 11:], model(b), atol=2e-4, rtol=2e-4)


def test_positions_begin_anew_with_each_document() -> None:
    assert positions_in_documents(torch.tensor([[5, 5, 2, 2, 2, 5], [0, 0, 0, 0, 0, 0]])).tolist() == [
        [0, 1, 0, 1, 2, 0],
        [0, 1, 2, 3, 4, 5],
    ]


@pytest.mark.parametrize("i", range(6))
def test_it_compiles_whole(i: int) -> None:
    model = shake(small_decoder(**{**draw_switches(random.Random(200 + i)), "dropout": 0.0}))
    ids = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(2))
    doc_ids = (torch.arange(20) // 8).expand(2, 20) if i % 2 else None
    torch._dynamo.reset()
    run = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(ids, doc_ids=doc_ids), model(ids, doc_ids=doc_ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("switches", SOME, ids=str)
def test_it_begins_at_ln_v_and_overfits_one_batch(switches: dict[str, Any]) -> None:
    model = Decoder(small_shape(**{"d_model": 64, "head_dim": 16, "init_std": 0.02, **switches})).train()
    initialise(model, 1)
    ids = torch.randint(0, 97, (4, 33), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses: list[float] = []
    for _ in range(80):
        loss = F.cross_entropy(model.logits(model(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(97), rel=0.02)
    assert losses[-1] < 0.1
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_switches_that_are_off_change_nothing() -> None:
    plain, neutral = small_decoder(), list[dict[str, Any]]([{"residual_scalars": True}, {"windows": 64}, {"positions": ("rope", "rope")}])
    for switches in neutral:
        ids = torch.randint(0, 97, (1, 30), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(small_decoder(**switches)(ids), plain(ids), atol=1e-5, rtol=1e-5)
    assert not any("lambda" in name or "q_norm" in name or "bias" in name for name in plain.state_dict())


def test_what_two_models_share_is_drawn_alike() -> None:
    plain = small_decoder(tie_embeddings=False).state_dict()
    more = small_decoder(tie_embeddings=False, qk_norm=True, residual_scalars=True, value_embeddings=True, bias=True).state_dict()
    assert set(plain) < set(more)
    assert weights_sha256({name: more[name] for name in plain}) == weights_sha256(plain)
    assert more["value_embeddings.1.weight"].std() == pytest.approx(0.2, rel=0.1) and "value_embeddings.0.weight" not in more


def test_late_keys_stay_within_their_document() -> None:
    k = torch.arange(7.0)[None, None, :, None].expand(1, 2, 7, 3)
    assert one_late(k, None)[0, 0, :, 0].tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert one_late(k, torch.tensor([[4, 4, 4, 9, 2, 2, 4]]))[0, 1, :, 2].tolist() == [0, 0, 1, 3, 4, 4, 6]


def test_half_of_the_key_heads_are_late() -> None:
    heads = [small_decoder(n_heads=8, n_kv_heads=n, key_offset=True).layers[0].self_attn.late_heads for n in (1, 2, 4, 8)]
    assert heads == [1, 1, 2, 4]


def test_one_layer_finds_what_followed_a_token() -> None:
    """Queries and keys alike, values to logits: by late keys alone, an untrained layer attends to what followed, and says it."""
    model = small_decoder(n_layers=1, n_heads=1, n_kv_heads=1, d_model=64, head_dim=64, positions="none", key_offset=True)
    attention, block = model.layers[0].self_attn, model.layers[0]
    with torch.no_grad():
        model.embed_tokens.weight.copy_(torch.randn(model.embed_tokens.weight.shape, generator=torch.Generator().manual_seed(1)))
        for projection, scale in ((attention.q_proj, 2), (attention.k_proj, 2), (attention.v_proj, 5), (attention.o_proj, 1)):
            projection.weight.copy_(scale * torch.eye(64))
        block.mlp.down_proj.weight.zero_()
        row = torch.randperm(97, generator=torch.Generator().manual_seed(2))[:20]
        found = model.logits(model(torch.cat([row, row])[None]))[0].argmax(-1)
    assert torch.equal(found[21:39], row[2:])  # the first position has its own key, so it is found by it, too


def test_dropout_is_only_in_training() -> None:
    model = small_decoder(dropout=0.5, value_embeddings=True)
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids), model(ids))
    model.train()
    torch.manual_seed(1)
    first, second = model(ids), model(ids)
    torch.manual_seed(1)
    assert torch.equal(model(ids), first) and not torch.equal(first, second)


def test_a_soft_cap_bounds_logits() -> None:
    model = small_decoder(logit_softcap=0.5, init_std=1.0)
    found = model.logits(model(torch.arange(20)[None]))
    model = small_decoder(init_std=1.0)
    torch.testing.assert_close(found, 0.5 * torch.tanh(model.logits(model(torch.arange(20)[None])) / 0.5))
    assert found.abs().max() <= 0.5


def test_settings_are_patterns_and_mistakes_are_said() -> None:
    section = ModelSection.model_validate({"positions": ["none", "none", "none", "alibi"], "windows": 128})
    assert [section.position_of(i) for i in (0, 3, 4, 7)] == ["none", "alibi", "none", "alibi"] and section.window_of(5) == 128
    with pytest.raises(ValidationError, match="for all layers or none"):
        ModelSection.model_validate({"positions": ["learned", "rope"]})
    with pytest.raises(ValidationError, match="must be even"):
        ModelSection(head_dim=7)
    assert ModelSection(head_dim=7, positions=("alibi",)).head_dim == 7
    recipe = {"pretrain": {"steps": 1}, "model": {"positions": "learned", "mlp": "gelu", "max_seq_len": 32}, "pack": {"seq_len": 64}}
    with pytest.raises(ConfigError, match="too few"):
        resolve_model(validate(recipe))
    config = resolve_model(validate({**recipe, "model": {"positions": "learned", "mlp": "gelu"}}))
    assert config.d_ff == 4 * config.d_model and config.max_seq_len == 64
