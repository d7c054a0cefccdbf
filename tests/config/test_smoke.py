"""Every recipe counts as it says, and becomes small without losing anything that it does; none of this trains or fetches."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from luthier.config.load import load_recipe, resolve_model, validate
from luthier.config.schema import Recipe
from luthier.config.smoke import SUFFIX, smoke
from luthier.config.texts import ARTICLES, COOKBOOK
from luthier.config.write import recipe_toml
from luthier.errors import ConfigError
from luthier.plan.report import plan

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SYSTEMS = {
    "llm-maker-a": 10_096_896,
    "llm-maker-b": 12_194_048,
    "llm-maker-d": 97_536_768,
    "guide-20m": 19_853_952,
    "guide-50m": 40_641_024,
    "guide-100m": 82_291_840,
    "qt-1b": 989_796_352,
    "myllm-1b": 1_055_231_744,
    "nanolm-10m": 10_358_016,
}
KEPT = {
    "model": ("norm", "mlp", "bias", "positions", "qk_norm", "logit_softcap", "dropout", "tie_embeddings", "rope_theta", "init_std"),
    "optim": ("name", "schedule", "restarts", "restart_peak", "warmup_start", "min_lr_ratio", "decay_form", "betas", "weight_decay"),
    "pretrain": ("precision", "activation_checkpointing", "replacement", "document_mask", "superposition", "keep_best"),
    "pack": ("rows",),
    "export": ("dtype",),
    "tokenizer": ("kind", "pattern", "unknown"),
    "sft": ("supervise", "take", "schedule", "system_prompt", "lora_rank"),
}


def small(name: str) -> tuple[Recipe, Recipe]:
    """A recipe, and what becomes of it."""
    recipe = load_recipe([RECIPES / f"{name}.toml"])
    return recipe, smoke(recipe)


@pytest.mark.parametrize(("name", "params"), SYSTEMS.items())
def test_the_systems_have_the_parameters_that_they_state(name: str, params: int) -> None:
    recipe = load_recipe([RECIPES / f"{name}.toml"])
    assert plan(recipe, None).params == params == recipe.expected_params
    text = (RECIPES / f"{name}.toml").read_text("utf-8")
    head = text[: text.index("\ndescription")]
    assert all(f"# {word}" in head for word in ("Command:", "Hardware:", "Expected:", "Source:", "Parameters:"))
    assert f"recipes/{name}.toml" in head and f"{params:,}" in head
    words = " ".join(head.replace("#", " ").split())
    assert "as published by its author" in words or "nothing is published" in words
    typo = recipe.model_copy(update={"model": recipe.model.model_copy(update={"d_model": recipe.model.d_model + 2 * recipe.model.n_heads})})
    with pytest.raises(ConfigError, match=f"the recipe says {params:,}, its dimensions give"):
        plan(typo, None)


def test_what_the_systems_state_besides() -> None:
    for name, steps in (("llm-maker-a", 3_052), ("llm-maker-b", 43_992), ("llm-maker-d", 61_036), ("myllm-1b", 105_058)):
        assert plan(load_recipe([RECIPES / f"{name}.toml"]), None).steps == steps
    assert plan(load_recipe([RECIPES / "myllm-1b.toml"]), None).kv_cache_bytes_per_token == 28_672
    for name, layers, width, rule in (("20m", 10, 384, 19_606_656), ("50m", 12, 512, 40_297_984), ("100m", 16, 640, 81_829_760)):
        assert 12 * layers * width**2 + 4979 * width == rule
        assert plan(load_recipe([RECIPES / f"guide-{name}.toml"]), None).rule_of_thumb_params == rule
        assert f"{rule:,}" in (RECIPES / f"guide-{name}.toml").read_text("utf-8")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_small_recipe_does_all_that_the_large_one_does(name: str) -> None:
    recipe, made = small(name)
    assert validate(tomllib.loads(recipe_toml(made))) == made, "it is a recipe as any other"
    assert made.run.name == recipe.run.name + SUFFIX and made.expected_params is None
    for section, fields in KEPT.items():
        for field in fields:
            assert getattr(getattr(made, section), field) == getattr(getattr(recipe, section), field), f"{section}.{field}"
    assert made.data.mix == recipe.data.mix and made.data.clean == recipe.data.clean and made.data.filter == recipe.data.filter
    assert [(one.name, one.weight) for one in made.data.sources] == [(one.name, one.weight) for one in recipe.data.sources]
    assert [(one.kind, one.name) for one in made.post] == [(one.kind, one.name) for one in recipe.post]
    assert len(made.sft.sources) == len(recipe.sft.sources) and all(len(one.sources) >= 1 for one in made.post)
    everything = [*made.data.sources, *made.sft.sources, *(source for one in made.post for source in getattr(one, "sources", ()))]
    assert {one.package for one in everything} <= {ARTICLES["package"], COOKBOOK["package"], None}
    assert not any(one.kind == "hub" for one in everything)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_small_model_has_the_shape_of_the_large_one(name: str) -> None:
    recipe, made = small(name)
    large, tiny = resolve_model(recipe), resolve_model(made)
    assert plan(made, None).params < 1_500_000
    assert tiny.n_heads // tiny.n_kv_heads == large.n_heads // large.n_kv_heads
    assert tiny.n_heads * tiny.head_dim == tiny.d_model and tiny.head_dim % 2 == 0
    assert abs(tiny.d_ff / tiny.d_model - large.d_ff / large.d_model) < 0.15
    assert {tiny.position_of(layer) for layer in range(tiny.n_layers)} == {large.position_of(layer) for layer in range(large.n_layers)}
    assert tiny.max_seq_len / made.pack.seq_len == large.max_seq_len / recipe.pack.seq_len


def test_proportions_stay() -> None:
    recipe, made = small("llm-maker-b")
    assert made.data.budget.tokens and made.pretrain.tokens and recipe.data.budget.tokens and recipe.pretrain.tokens
    assert made.pretrain.tokens / made.data.budget.tokens == pytest.approx(4) == recipe.pretrain.tokens / recipe.data.budget.tokens
    recipe, made = small("qt-1b")
    assert made.optim.decay_steps == round(2000 * 96 / 20_972) and made.pretrain.micro_batch_size == 2
    assert made.sft.seq_len == 2 * made.pack.seq_len
    recipe, made = small("myllm-1b")
    assert made.tokenizer.layout.ids["system"] == made.tokenizer.vocab_size - 16 and made.tokenizer.layout.ids["end_of_text"] == 2
    assert made.optim.restart_warmup_steps and made.pretrain.micro_batch_size == 2
    assert made.data.budget.tokens == 96 * 2048, "one pass, so that both phases are seen"


def test_a_distillation_has_no_small_form() -> None:
    recipe = load_recipe([], ['post=[{kind="distill", name="d", teacher="runs/large"}]'])
    with pytest.raises(ConfigError, match="its teacher is a model that is there"):
        smoke(recipe)


def test_the_texts_are_the_quickstarts() -> None:
    quickstart = load_recipe([RECIPES / "quickstart.toml"])
    for source, ours in ((quickstart.data.sources[0], ARTICLES), (quickstart.sft.sources[1], COOKBOOK)):
        assert {key: getattr(source, key) for key in ours} == ours
