"""One dial. In: a depth, a number of parameters, or a time on a machine. Out: a recipe, and how each value was found. Next: stages.

Every value has a rule and a source. What the user says stands, and the values behind it follow from that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from luthier.config import texts
from luthier.config.load import lay_over, resolve_model, validate
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.plan.compute import training_flops_per_token
from luthier.plan.hardware import Hardware
from luthier.plan.horizon import bytes_per_token
from luthier.plan.parameters import count
from luthier.plan.report import plan

CHINCHILLA = 20.0
"""Tokens per parameter. Source: Hoffmann et al. 2022, arXiv:2203.15556, table 3."""
STEPPING = 0.9
"""Share of a budget that is training steps; the rest is for compiling, validation and checkpoints."""
DEEPEST = 200
LEAST_STEPS = 2000
NANOCHAT, LOG = "nanochat's depth dial", "docs/LOG.md"

ARTICLES: dict[str, Any] = {**texts.ARTICLES, "name": "vital-articles", "text": "{title}\n\n{extract}"}
ARTICLES_BYTES = 4_927_329
WORTHWHILE, MOST, TOO_MANY = 4, 8, 32
"""Passes over the articles: as many as teach almost as much as new text would (Muennighoff et al. 2023); as many as are made to fill a
budget; and as many as a model must want before it reads the web instead."""
WEB: dict[str, Any] = {
    "kind": "hub",
    "dataset": "HuggingFaceFW/fineweb-edu",
    "revision": "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
    "licence": "ODC-By-1.0",
    "attribution": "FineWeb-Edu, Hugging Face, https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu",
    "language": "en",
}
WEB_FILES, WEB_FILE_BYTES = 14, 3.2e9
"""Files of its sample of ten billion tokens, and bytes of text in each, at 4.5 bytes a token."""


@dataclass(frozen=True)
class Derived:
    """One value of a recipe: its name, what it is, by which rule, and where that is from."""

    name: str
    value: Any
    rule: str
    source: str


@dataclass(frozen=True)
class Dialled:
    """A recipe from one number. `settings` is what a recipe's file has to say."""

    depth: int
    recipe: Recipe
    settings: dict[str, Any]
    derived: tuple[Derived, ...]


def at_depth(depth: int, given: Mapping[str, Any] | None = None, ratio: float = CHINCHILLA, tokens: float | None = None) -> Dialled:
    """Derive a whole recipe from its number of layers; `given` are the user's settings, which stand.

    It trains on `tokens`, or on `ratio` tokens per parameter.
    Raises: ConfigError
    """
    validate(given or {})  # before anything is computed of it
    values = _Values(given or {})
    _shape(values, depth)
    config = resolve_model(values.recipe())
    params, flops = count(config)["total"], training_flops_per_token(config, values["pack.seq_len"])
    trained = _horizon(values, params, ratio, tokens)
    _text(values, trained)
    _training(values, trained, flops, trained / params)
    return Dialled(depth, values.recipe(f"depth-{depth}"), values.settings, tuple(values.derived))


def for_params(params: int, given: Mapping[str, Any] | None = None, ratio: float = CHINCHILLA) -> Dialled:
    """Derive the deepest recipe with at most so many parameters.

    Raises: ConfigError where one layer has more
    """

    def size(dialled: Dialled) -> int:
        return count(resolve_model(dialled.recipe))["total"]

    dialled = _deepest(lambda deeper: size(deeper) <= params, given or {}, ratio)
    if (least := size(dialled)) > params:
        fix = f"ask for {least:,} or more, or set tokenizer.vocab_size or model.d_model"
        raise ConfigError(f"--params {params:,}: one layer and its embedding are {least:,} parameters", fix=fix)
    return dialled


def for_budget(seconds: float, hardware: Hardware, given: Mapping[str, Any] | None = None, ratio: float = CHINCHILLA) -> Dialled:
    """Derive the deepest recipe whose predicted time is within a budget, and fill the rest of it with tokens.

    A larger budget never gives a smaller model.
    Raises: ConfigError when nothing is known of the machine's speed
    """

    def needs(dialled: Dialled) -> float:
        planned = plan(dialled.recipe, hardware)
        predicted = planned.seconds
        if planned.steps is None:
            raise ConfigError("how long the text is is not known, so epochs have no time", fix="leave pretrain.epochs out")
        if predicted is None:
            raise ConfigError(
                f"how fast {hardware.name} trains is not known", fix="run `luthier doctor`, or name a machine: '6h on rtx4090'"
            )
        return predicted

    dialled = _deepest(lambda dialled: needs(dialled) <= STEPPING * seconds, given or {}, ratio)
    tokens = dialled.recipe.pretrain.tokens
    if tokens is None:  # the user has set another horizon
        return dialled
    return at_depth(dialled.depth, given, ratio, tokens * STEPPING * seconds / needs(dialled))


def _deepest(fits: Callable[[Dialled], bool], given: Mapping[str, Any], ratio: float) -> Dialled:
    """The last of the depths from 1 on that fit; the first, if none does.

    Raises: ConfigError where the number of layers is given, and no depth is left to find
    """
    if "n_layers" in given.get("model", {}):
        raise ConfigError("model.n_layers: a budget or a number of parameters finds it", fix="leave it out, or say --depth")
    dialled = at_depth(1, given, ratio)
    while dialled.depth < DEEPEST and fits(deeper := at_depth(dialled.depth + 1, given, ratio)):
        dialled = deeper
    return dialled


class _Values:
    """Settings by dotted name, in the order in which they are found."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._found: dict[str, Any] = {}
        self.derived: list[Derived] = []

    def take(self, name: str, value: Any, rule: str, source: str) -> Any:
        """Set a value, unless the user has; return the one that stands."""
        if (theirs := self.given(name)) is not None:
            value, rule, source = theirs, "as given", "you"
        self._found[name] = value
        self.derived.append(Derived(name, value, rule, source))
        return value

    def given(self, name: str) -> Any:
        """What the user says of a setting; `None`: nothing."""
        found: Any = self._given
        for part in name.split("."):
            found = cast("dict[str, Any]", found).get(part) if isinstance(found, dict) else None
        return found

    def __getitem__(self, name: str) -> Any:
        return self._found[name]

    @property
    def settings(self) -> dict[str, Any]:
        """All that was found, as nested tables, under all that was given."""
        tables: dict[str, Any] = {}
        for name, value in self._found.items():
            for part in reversed(name.split(".")):
                value = {part: value}
            tables = lay_over(tables, value)
        return lay_over(tables, self._given)

    def recipe(self, name: str = "dial") -> Recipe:
        return validate(lay_over({"run": {"name": name}}, self.settings))


def _shape(values: _Values, depth: int) -> None:
    """The model, its vocabulary and its rows."""
    layers = values.take("model.n_layers", depth, "the dial", NANOCHAT)
    width = values.take("model.d_model", 64 * layers, "64 for each layer", f"{NANOCHAT}; Kaplan et al. 2020, arXiv:2001.08361, figure 5")
    values.take("model.n_heads", max(1, width // 64), "heads of 64", "Vaswani et al. 2017, arXiv:1706.03762")
    d_ff = values.take("model.d_ff", -(-8 * width // 3 // 64) * 64, "8/3 of the width, in steps of 64", "Shazeer 2020, arXiv:2002.05202")
    values.take("model.residual_scalars", True, "lower loss in the same time", LOG)
    blocks = layers * (4 * width**2 + 3 * width * d_ff)
    entries = 16_384 * (1024 / width) * (blocks / 302e6) ** 0.83
    rule = "16,384 at 302M parameters of blocks, embedding ~ blocks^0.83; a power of two from 4,096"
    values.take("tokenizer.vocab_size", _power_of_two(entries, 4096, 65_536), rule, "Tao et al. 2024, arXiv:2407.13623")
    rule = "the width, up to a power of two from 256 to 2,048: scores stay below a sixth of a block's products"
    values.take("pack.seq_len", min(2048, max(256, 2 ** math.ceil(math.log2(width)))), rule, "plan.compute")


def _horizon(values: _Values, params: int, ratio: float, tokens: float | None) -> float:
    """How long it trains: as long as the budget has time for, or what the ratio says; of the articles no more than is worth it."""
    wanted, own_text = ratio * params, values.given("data.sources") is not None
    source = "Hoffmann et al. 2022, arXiv:2203.15556"
    if tokens is not None:
        rule, source = f"what the budget has time for: {tokens / params:.3g} for each of {params:,} parameters", "plan"
    elif not own_text and WORTHWHILE < _passes(values, wanted) <= TOO_MANY:
        tokens = WORTHWHILE / _passes(values, 1)
        rule, source = f"{WORTHWHILE} passes over the articles", "Muennighoff et al. 2023, arXiv:2305.16264"
    else:
        tokens, rule = wanted, f"{ratio:g} for each of {params:,} parameters"
    return values.take("pretrain.tokens", _digits(tokens, 3), rule, source)


def _passes(values: _Values, tokens: float) -> float:
    """How often so many tokens are all of the articles."""
    return tokens * bytes_per_token(values["tokenizer.vocab_size"]) / ARTICLES_BYTES


def _text(values: _Values, tokens: float) -> None:
    """What it reads."""
    passes = _passes(values, tokens)
    if passes <= MOST or values.given("data.sources") is not None:
        values.take("data.sources", [ARTICLES], f"10,000 articles, {passes:.1f} passes", "recipes/quickstart.toml")
        return
    size = passes * ARTICLES_BYTES
    files = math.ceil(1.05 * size / WEB_FILE_BYTES)
    files = files if files <= 10 else WEB_FILES
    names = f"sample/10BT/00[0-{files - 1}]_*.parquet" if files <= 10 else "sample/10BT/*.parquet"
    rule = f"{files} of {WEB_FILES} files of FineWeb-Edu, {max(1.0, size / (files * WEB_FILE_BYTES)):.1f} passes"
    values.take("data.sources", [{**WEB, "files": [names]}], rule, "Penedo et al. 2024, arXiv:2406.17557")
    values.take("data.near.enabled", False, "near-duplicates are gone already", "Penedo et al. 2024, section 3.4")
    values.take("data.validation_share", 0.0005, "a megabyte or more is held out", "")
    values.take("tokenizer.max_bytes", 10**9, "merges hardly change with more", "")


def _training(values: _Values, tokens: float, flops_per_token: float, ratio: float) -> None:
    """Batch, optimizer, learning rates, decay, and when to look."""
    row, few = values["pack.seq_len"], 2 ** int(math.log2(max(1.0, tokens / LEAST_STEPS)))
    best = min(few, _power_of_two(0.2920 * (tokens * flops_per_token) ** 0.3271, 1, 2**24))
    rule = f"0.292 C^0.3271, but {LEAST_STEPS:,} steps or more; a power of two"
    batch = values.take(
        "pretrain.global_batch_tokens", _power_of_two(best, row, 2**24), rule, f"DeepSeek 2024, arXiv:2401.02954, eq. 1; {LOG}"
    )
    steps = max(1, round(tokens / batch))
    values.take("pretrain.document_mask", True, "documents of a row do not see each other", LOG)
    values.take("optim.name", "muon", "lower loss in the same time", f"Jordan et al. 2024; {LOG}")
    width = values["model.d_model"]
    rule = "0.15 / sqrt(width): updates of one spectral norm; 0.01 at 192 and 256"
    muon = values.take("optim.muon_lr", _digits(0.15 / width**0.5), rule, f"Yang et al. 2023, arXiv:2310.17813; {LOG}")
    rule = "0.12 / sqrt(width); 0.008 at 192 and 256"
    values.take("optim.lr", _digits(0.12 / width**0.5), rule, f"{NANOCHAT}, width^-0.5; {LOG}")
    forgets = 0.245 * (ratio / CHINCHILLA) ** -0.5
    rule = f"forgets over {forgets:.2g} of the steps, ~ (tokens per parameter)^-0.5; 0.1 for 733 steps of 0.01"
    values.take("optim.weight_decay", _digits(min(1.0, 1 / (muon * steps * forgets))), rule, "Bergsma et al. 2025, arXiv:2505.13738")
    values.take("optim.schedule", "linear", "straight to zero", "Bergsma et al. 2025, arXiv:2502.15938")
    values.take("optim.min_lr_ratio", 0.0, "straight to zero", "Bergsma et al. 2025, arXiv:2502.15938")
    values.take("optim.warmup_steps", max(1, round(0.02 * steps)), "2% of the steps", LOG)
    for name in ("eval_every", "sample_every"):
        values.take(f"pretrain.{name}", max(1, round(steps / 10)), "ten times in all", "")


def _power_of_two(value: float, least: int, most: int) -> int:
    """The nearest power of two within bounds."""
    return min(most, max(least, 2 ** round(math.log2(max(1.0, value)))))


def _digits(value: float, digits: int = 2) -> Any:
    """Round to so many digits; a count stays an integer."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded >= 1000 else rounded
