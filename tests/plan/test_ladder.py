"""Ladders: smaller models of the same kind, whose settings follow the rules."""

from __future__ import annotations

import pytest

from luthier.config.load import load_recipe, resolve_model
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.plan.ladder import ladder, rung
from luthier.plan.parameters import count
from luthier.plan.report import plan

SETTINGS = [
    "model.d_model=256", "model.n_layers=8", "model.n_heads=4", "model.n_kv_heads=2", "model.d_ff=704", "model.residual_scalars=true",
    "tokenizer.vocab_size=4096", "pack.seq_len=256", "optim.lr=8e-3", "optim.muon_lr=0.01", "optim.warmup_steps=20", "run.name=up",
    "pretrain.tokens_per_param=20", "pretrain.global_batch_tokens=32768", "pretrain.document_mask=true",
]  # fmt: skip


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe([], SETTINGS)


def test_a_ladder_leads_up_to_the_recipe(recipe: Recipe) -> None:
    rungs = ladder(recipe, 4, (5.0, 20.0))
    params = [count(resolve_model(each))["total"] for each in rungs]
    own = count(resolve_model(recipe))["total"]
    assert len(rungs) == 8 and params == sorted(params) and len(set(params)) == 4 and params[-1] < own
    for each, size in zip(rungs, params, strict=True):
        tokens = plan(each, None).tokens
        assert tokens and min(abs(tokens / size / ratio - 1) for ratio in (5, 20)) < 0.05
    assert len({each.run.name for each in rungs}) == 8


def test_what_does_not_depend_on_size_stays(recipe: Recipe) -> None:
    small = ladder(recipe, 2, (20.0,))[0]
    assert (small.data, small.tokenizer, small.pack, small.run.seed) == (recipe.data, recipe.tokenizer, recipe.pack, recipe.run.seed)
    assert small.model.residual_scalars and small.pretrain.document_mask and small.model.n_kv_heads == 2
    assert (small.model.d_model, small.model.n_layers, small.model.d_ff) == (128, 4, 352)


def test_rates_batch_and_decay_follow_the_rules(recipe: Recipe) -> None:
    small = rung(recipe, 0.5, 20.0)
    assert small.optim.muon_lr == pytest.approx(0.01 * 2**0.5) and small.optim.lr == pytest.approx(8e-3 * 2**0.5)
    tokens, own = (20 * count(resolve_model(each))["total"] for each in (small, recipe))
    assert small.pretrain.global_batch_tokens == pytest.approx(32768 * (tokens / own) ** 0.383, rel=0.02)
    assert small.pretrain.global_batch_tokens % 256 == 0

    def forgets(each: Recipe) -> float:
        return each.optim.muon_lr * each.optim.weight_decay * (plan(each, None).steps or 0)

    assert forgets(small) == pytest.approx(forgets(recipe), rel=0.02)
    assert forgets(rung(recipe, 0.5, 5.0)) == pytest.approx(forgets(recipe) / 2, rel=0.02)


def test_the_top_is_the_recipe(recipe: Recipe) -> None:
    top = rung(recipe, 1.0, 20.0)
    assert top.model == recipe.model and top.pretrain.global_batch_tokens == recipe.pretrain.global_batch_tokens
    assert top.optim.weight_decay == pytest.approx(recipe.optim.weight_decay, rel=1e-3) and top.optim.lr == recipe.optim.lr
    assert plan(top, None).tokens == plan(recipe, None).tokens


def test_too_small_a_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no 4 smaller ones"):
        ladder(load_recipe([], ["model.d_model=32", "model.n_heads=4"]), 4, (20.0,))
