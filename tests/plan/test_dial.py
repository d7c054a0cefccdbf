"""One dial: what follows from a depth or a budget, what the user's own settings change, and that more budget is never a smaller model."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config.load import resolve_model, validate
from luthier.config.write import settings_toml
from luthier.errors import ConfigError
from luthier.plan.dial import ARTICLES, STEPPING, Dialled, at_depth, for_budget, for_params
from luthier.plan.gpus import PROCESSORS, TABLE
from luthier.plan.hardware import Hardware
from luthier.plan.parameters import count
from luthier.plan.report import plan

MACHINES = {**TABLE, **PROCESSORS}


def params(dialled: Dialled) -> int:
    return count(resolve_model(dialled.recipe))["total"]


def test_a_depth_says_all_of_the_model() -> None:
    dialled = at_depth(12)
    recipe, model = dialled.recipe, dialled.recipe.model
    assert (model.n_layers, model.d_model, model.n_heads, model.d_ff, recipe.pack.seq_len) == (12, 768, 12, 2048, 1024)
    assert recipe.tokenizer.vocab_size == 8192 and recipe.optim.name == "muon" and recipe.run.name == "depth-12"
    assert recipe.pretrain.tokens == pytest.approx(20 * params(dialled), rel=0.01)
    assert recipe.pretrain.global_batch_tokens == 2**18 and recipe.optim.min_lr_ratio == 0
    steps = plan(recipe, None).steps
    assert steps and recipe.optim.warmup_steps == pytest.approx(0.02 * steps, rel=0.02)
    names = [value.name for value in dialled.derived]
    assert len(names) == len(set(names)) and all(value.rule for value in dialled.derived)


def test_what_is_derived_is_what_the_recipe_says() -> None:
    dialled = at_depth(4)
    said: Any = dialled.recipe.model_dump(mode="json")
    for value in dialled.derived:
        found = said
        for part in value.name.split("."):
            found = found[part]
        if value.name != "data.sources":
            assert found == value.value, value.name


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 9, 24])
def test_rules_grow_with_the_depth(depth: int) -> None:
    small, large = at_depth(depth), at_depth(depth + 1)
    assert params(small) < params(large)
    assert small.recipe.optim.muon_lr > large.recipe.optim.muon_lr and small.recipe.optim.lr > large.recipe.optim.lr
    assert small.recipe.tokenizer.vocab_size <= large.recipe.tokenizer.vocab_size
    assert small.recipe.pretrain.global_batch_tokens <= large.recipe.pretrain.global_batch_tokens
    assert 0.03 < small.recipe.optim.weight_decay < 0.3


def test_the_learning_rates_are_those_that_were_measured() -> None:
    """At 192 and 256 wide 0.01 and 0.008, as in docs/LOG.md."""
    for depth in (3, 4):
        recipe = at_depth(depth).recipe
        assert recipe.optim.muon_lr == pytest.approx(0.01, rel=0.1) and recipe.optim.lr == pytest.approx(0.008, rel=0.1)


def test_the_users_settings_stand_and_the_rest_follows() -> None:
    mine = {"model": {"d_model": 256, "residual_scalars": False}, "data": {"sources": ["texts"]}, "optim": {"lr": 1e-3}}
    plain, dialled = at_depth(6), at_depth(6, mine)
    recipe = dialled.recipe
    assert (recipe.model.d_model, recipe.model.n_heads, recipe.optim.lr) == (256, 4, 1e-3) and not recipe.model.residual_scalars
    assert recipe.data.sources[0].path == "texts"
    assert recipe.pretrain.tokens and recipe.pretrain.tokens < (plain.recipe.pretrain.tokens or 0)
    assert {value.name for value in dialled.derived if value.source == "you"} == {
        "model.d_model", "model.residual_scalars", "data.sources", "optim.lr",
    }  # fmt: skip
    horizon = at_depth(6, {"pretrain": {"epochs": 2.0}}).recipe.pretrain
    assert (horizon.epochs, horizon.tokens) == (2.0, None)


def test_small_models_read_the_articles_and_large_ones_the_web() -> None:
    assert at_depth(2).recipe.data.sources[0].package == ARTICLES["package"]
    few, more, everything = (at_depth(depth).recipe.data.sources[0] for depth in (4, 12, 26))
    assert few.dataset == more.dataset == "HuggingFaceFW/fineweb-edu"
    assert [source.files[0] for source in (few, more, everything)] == [
        "sample/10BT/00[0-0]_*.parquet", "sample/10BT/00[0-2]_*.parquet", "sample/10BT/*.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["2cores", "rtx4090", "h100"])
def test_a_budget_is_kept_and_used(name: str) -> None:
    for seconds in (300.0, 3600.0, 86_400.0):
        dialled = for_budget(seconds, MACHINES[name])
        predicted = plan(dialled.recipe, MACHINES[name]).seconds
        assert predicted == pytest.approx(STEPPING * seconds, rel=0.03)
        deeper = plan(at_depth(dialled.depth + 1).recipe, MACHINES[name]).seconds
        assert deeper and deeper > STEPPING * seconds


@settings(max_examples=30, deadline=None)
@given(
    one=st.floats(10, 1e6),
    other=st.floats(10, 1e6),
    name=st.sampled_from(sorted(MACHINES)),
    ratio=st.sampled_from([2.0, 20.0, 80.0]),
)
def test_a_larger_budget_is_never_a_smaller_model(one: float, other: float, name: str, ratio: float) -> None:
    small, large = (for_budget(seconds, MACHINES[name], ratio=ratio) for seconds in sorted((one, other)))
    assert params(small) <= params(large)


def test_a_faster_machine_is_a_larger_model() -> None:
    depths = [for_budget(3600, MACHINES[name]).depth for name in ("2cores", "t4", "rtx3090", "rtx4090", "h100")]
    assert depths == sorted(depths) and depths[0] < depths[-1]


def test_more_tokens_per_parameter_is_a_smaller_model_for_the_same_time() -> None:
    assert for_budget(3600, TABLE["h100"], ratio=100).depth < for_budget(3600, TABLE["h100"]).depth


def test_a_machine_of_unknown_speed_is_refused() -> None:
    with pytest.raises(ConfigError, match="not known"):
        for_budget(60, Hardware("x", {}, 8))


def test_fewer_parameters_than_one_layer_has_are_refused() -> None:
    least = params(at_depth(1))
    assert for_params(least).depth == 1
    with pytest.raises(ConfigError, match=f"{least:,} parameters"):
        for_params(least - 1)


@pytest.mark.parametrize("most", [400_000, 1_000_000, 100_000_000])
def test_for_params_is_the_deepest_within(most: int) -> None:
    dialled = for_params(most)
    assert params(dialled) <= most
    assert params(at_depth(dialled.depth + 1)) > most


def test_the_file_says_what_the_dial_found() -> None:
    dialled = at_depth(3, {"data": {"clean": {"form": "NFKC"}}})
    text = settings_toml(dialled.settings, {"model.d_model": "so wide", "data.sources": "so much"})
    again = validate({**tomllib.loads(text), "run": {"name": dialled.recipe.run.name}})
    assert again == dialled.recipe
    assert "d_model = 192  # so wide" in text and "[[data.sources]]\n# so much" in text and "[data.clean]" in text


def test_decay_forgets_over_what_is_said() -> None:
    recipe = at_depth(12).recipe
    steps = plan(recipe, None).steps or 1
    forgets = 1 / (recipe.optim.muon_lr * recipe.optim.weight_decay * steps)
    assert math.isclose(forgets, 0.245, rel_tol=0.1)
