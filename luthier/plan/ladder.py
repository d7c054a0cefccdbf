"""Smaller models of the same kind. In: a recipe. Out: recipes of a ladder that leads up to it. Next: stages, which train it, and fit.

Of the recipe everything stays that does not depend on size: text, tokenizer, rows, switches. Width and layers shrink together; learning
rates, batch and decay follow by the rules of the dial, relative to what the recipe says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.config.load import resolve_model
from luthier.config.model import ModelSection
from luthier.config.schema import Recipe
from luthier.config.training import PretrainSection
from luthier.errors import ConfigError
from luthier.plan.horizon import rows_per_step, step_rows, steps_for
from luthier.plan.parameters import count

STEP = 2**0.5
"""A size's width relative to the one below."""
_STEPS = ("warmup_steps", "decay_steps", "restart_warmup_steps")
"""Parts of the learning rate's course, as long in proportion."""


def ladder(recipe: Recipe, sizes: int, ratios: Sequence[float], vocab_size: int | None = None) -> list[Recipe]:
    """So many sizes below the recipe's own, each at every ratio of tokens to parameters, the smallest first.

    Raises: ConfigError when the recipe is too small to have so many below it
    """
    scales = [STEP**-below for below in range(sizes, 0, -1)]
    widths = [_shape(recipe.model, scale)["d_model"] for scale in scales]
    if len({*widths, recipe.model.d_model}) < sizes + 1:
        raise ConfigError(
            f"a model {recipe.model.d_model} wide with {recipe.model.n_heads} heads has no {sizes} smaller ones, only {len({*widths})}",
            fix="fewer --sizes, or a larger model",
        )
    return [rung(recipe, scale, ratio, vocab_size) for scale in scales for ratio in ratios]


def rung(recipe: Recipe, scale: float, ratio: float, vocab_size: int | None = None) -> Recipe:
    """The recipe with its width and layers times `scale`, trained on `ratio` tokens per parameter."""
    model = ModelSection.model_validate({**recipe.model.model_dump(), **_shape(recipe.model, scale)})
    smaller = recipe.model_copy(update={"model": model, "expected_params": None})
    row, settings, optim = recipe.pack.seq_len, recipe.pretrain, recipe.optim
    params, own_params = (count(resolve_model(each, vocab_size))["total"] for each in (smaller, recipe))
    own_horizon = steps_for(settings, own_params, row, None)
    tokens = ratio * params
    own = step_rows(settings, row).before(own_horizon) * row if own_horizon else ratio * own_params
    batch = row * rows_per_step(round(settings.global_batch_tokens * (tokens / own) ** 0.383), row)
    steps, own_steps = tokens / batch, own / settings.global_batch_tokens
    wider = (recipe.model.d_model / model.d_model) ** 0.5
    longer = (ratio * own_params / own) ** 0.5  # what has more tokens for a parameter forgets over a smaller share of the steps
    changed: dict[str, Any] = {
        "lr": min(1.0, optim.lr * wider),
        "muon_lr": min(1.0, optim.muon_lr * wider),
        "weight_decay": optim.weight_decay * own_steps / (steps * wider) * longer,
        **{name: max(1, round(many * steps / own_steps)) for name in _STEPS if (many := getattr(optim, name))},
    }
    name = f"{recipe.run.name[:40]}-{model.d_model}x{model.n_layers}-{ratio:.3g}"
    return smaller.model_copy(
        update={
            "run": recipe.run.model_copy(update={"name": name}),
            "optim": optim.model_copy(update=changed),
            "pretrain": _horizon(settings, round(tokens), batch),
        }
    )


def _shape(model: ModelSection, scale: float) -> dict[str, Any]:
    """Width, heads' width, MLP and layers at a scale; the number of heads stays, and each stays even."""
    unit = 2 * model.n_heads
    width = max(unit, unit * round(scale * model.d_model / unit))
    shape: dict[str, Any] = {"d_model": width, "n_layers": max(1, round(scale * model.n_layers))}
    if model.head_dim is not None:
        shape["head_dim"] = max(2, 2 * round(scale * model.head_dim / 2))
    if model.d_ff is not None:
        shape["d_ff"] = max(8, 8 * round(scale * model.d_ff / 8))
    return shape


def _horizon(settings: PretrainSection, tokens: int, batch: int) -> PretrainSection:
    """The same training for so many tokens, without looks on the way."""
    never = {"eval_every": 10**9, "sample_every": 10**9}
    free = {"steps": None, "epochs": None, "tokens_per_param": None, "batch_warmup_start": None, "batch_warmup_tokens": None}
    return settings.model_copy(update={**free, **never, "tokens": tokens, "global_batch_tokens": batch})
