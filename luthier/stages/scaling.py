"""Verb scaling: a ladder of small models, a law fitted to their losses, and what it expects of the recipe's own. Out: table, JSON, a page.

Every model is a run of its own, up to pretraining: what is finished is not done again, and a ladder that was stopped goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luthier.config.load import resolve_model
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.plan.fit import Law, Point, fit
from luthier.plan.ladder import ladder, rung
from luthier.plan.parameters import count
from luthier.plan.report import plan
from luthier.runs.files import fingerprint, make_directory, write_json, write_text
from luthier.runs.progress import Progress, number, progress_for
from luthier.stages.arguments import recipe_from
from luthier.stages.output import print_json, print_rows, print_table
from luthier.stages.pipeline import run_recipe

SHORTER = 4.0
"""Each size is also trained on a quarter of the tokens, or nothing would tell parameters from tokens."""


def scaling_verb(arguments: Sequence[str], sizes: int, ratio: float | None, verify: bool, *, as_json: bool) -> None:
    """Train the ladder, fit the law, predict the recipe's model, and with `verify` train that too."""
    recipe, _ = recipe_from(arguments)
    progress = progress_for()
    found = climb(recipe, sizes, ratio, verify, progress)
    folder = make_directory(Path(recipe.runs.root) / "scaling")
    path = folder / f"{recipe.run.name}-{fingerprint({'recipe': recipe.decides(), 'sizes': sizes, 'ratio': ratio})[:8]}.json"
    write_json(path, found)
    write_text(path.with_suffix(".html"), page(found))
    found = {**found, "json": str(path), "page": str(path.with_suffix(".html"))}
    if as_json:
        print_json(found)
        return
    rows = [[f"{m['params']:,}", number(m["tokens"]), f"{m['loss']:.4f}", f"{m['bpb']:.4f}", f"{m['law']:.4f}"] for m in found["models"]]
    print_table(["parameters", "tokens", "loss", "bits per byte", "the law says"], rows)
    print()
    print_rows(_lines(found))


def climb(recipe: Recipe, sizes: int, ratio: float | None, verify: bool, progress: Progress) -> dict[str, Any]:
    """Train a ladder and predict its top; everything found, as plain values.

    Raises: LuthierError
    """
    planned = plan(recipe, None)
    wanted = ratio or planned.tokens_per_param
    if wanted is None:
        raise ConfigError("the recipe's horizon is in epochs: how many tokens its model sees is not known", fix="--tokens-per-param 20")
    _, made = run_recipe(recipe, progress, until="tokenizer")  # its vocabulary may be smaller than asked for
    entries = int(made[-1].summary.get("vocab_size", recipe.tokenizer.vocab_size))
    ratios = (wanted / SHORTER, wanted)
    models = [_train(smaller, progress) for smaller in ladder(recipe, sizes, ratios, entries)]
    fitted = fit([Point(model["params"], model["tokens"], model["loss"]) for model in models])
    top = recipe if ratio is None else rung(recipe, 1.0, ratio, entries)
    params = count(resolve_model(top, entries))["total"]
    tokens = plan(top, None).tokens or round(wanted * params)
    expected = fitted.expect(params, tokens)
    bits = models[-1]["bpb"] / models[-1]["loss"]
    for index, model in enumerate(models):
        model["ratio"] = ratios[index % len(ratios)]
        model["law"] = fitted.law.loss(model["params"], model["tokens"])
    found: dict[str, Any] = {
        "name": recipe.run.name,
        "models": models,
        "law": {**asdict(fitted.law), "noise": fitted.noise, "missed": fitted.missed, "bits_per_byte_per_nat": bits},
        "next": {"params": params, "tokens": tokens, **asdict(expected), "bpb": expected.loss * bits},
        "best_ratio": _best_ratio(fitted.law, 6.0 * params * tokens),
        "measured": None,
    }
    if verify:
        progress.say(f"expected {expected.loss:.4f} ({expected.low:.4f} to {expected.high:.4f}); training it to see")
        model = _train(top, progress)
        inside = expected.low <= model["loss"] <= expected.high
        found["measured"] = {**model, "error": expected.loss / model["loss"] - 1, "inside": inside}
    return found


def _train(recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Train one model, or find it."""
    run, stages = run_recipe(recipe, progress, until="pretrain")
    said = stages[-1].summary
    figures = {"params": said["params"], "tokens": said["tokens"], "loss": said["validation"]["loss"], "bpb": said["validation"]["bpb"]}
    progress.say(f"{figures['params']:,} parameters, {number(figures['tokens'])} tokens: {figures['loss']:.4f} nats per token")
    return {"run": str(run.path), "d_model": recipe.model.d_model, "n_layers": recipe.model.n_layers, **figures}


def _best_ratio(law: Law, flops: float) -> float | None:
    """Tokens per parameter that the law asks for at a compute; `None` where one of the two does not count in it."""
    return law.best_ratio(flops) if min(law.a, law.b) > 0 else None


def _lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    law, ahead, measured = found["law"], found["next"], found["measured"]
    rows = [
        ("law", f"{law['e']:.3f} + {law['a']:.3g} / N^{law['alpha']:.3f} + {law['b']:.3g} / D^{law['beta']:.3f}"),
        *([("tried", f"the largest size, predicted from the others, was off by {law['missed']:.1%}")] if law["missed"] is not None else []),
        ("next size", f"{ahead['params']:,} parameters, {number(ahead['tokens'])} tokens"),
        ("expected", f"{ahead['loss']:.4f} nats per token, {ahead['low']:.4f} to {ahead['high']:.4f}; {ahead['bpb']:.4f} bits per byte"),
    ]
    if measured is not None:
        verdict = "inside" if measured["inside"] else "outside"
        rows.append(("measured", f"{measured['loss']:.4f} nats per token: the law was off by {measured['error']:+.2%}, {verdict} its band"))
    if found["best_ratio"] is not None:
        rows.append(("tokens", f"for the compute of the next size the law asks for {found['best_ratio']:.3g} a parameter"))
    return [*rows, ("JSON", found["json"]), ("page", found["page"])]


def page(found: Mapping[str, Any]) -> str:
    """One chart: losses over parameters, the law at each length, what it expected, and what came."""
    from plotly import graph_objects as go

    law = Law(**{name: found["law"][name] for name in ("e", "a", "b", "alpha", "beta")})
    ahead, measured = found["next"], found["measured"]
    figure: Any = go.Figure()
    everything = [*found["models"], ahead]
    low, high = (math.log(edge(model["params"] for model in everything)) for edge in (min, max))
    curve = [math.exp(low + (high - low) * i / 40) for i in range(41)]
    for ratio in sorted({model["ratio"] for model in found["models"]}):
        mine = [model for model in found["models"] if model["ratio"] == ratio]
        label = f"{ratio:.3g} tokens per parameter"
        figure.add_scatter(x=curve, y=[law.loss(n, ratio * n) for n in curve], mode="lines", name=f"law, {label}")
        figure.add_scatter(x=[m["params"] for m in mine], y=[m["loss"] for m in mine], mode="markers", name=label)
    band = {"type": "data", "symmetric": False, "array": [ahead["high"] - ahead["loss"]], "arrayminus": [ahead["loss"] - ahead["low"]]}
    figure.add_scatter(x=[ahead["params"]], y=[ahead["loss"]], error_y=band, mode="markers", name="expected")
    if measured is not None:
        figure.add_scatter(x=[measured["params"]], y=[measured["loss"]], mode="markers", name="measured", marker={"symbol": "star"})
    figure.update_layout(
        title=f"Scaling of {found['name']}", xaxis_title="parameters", yaxis_title="nats per token", template="plotly_white"
    )
    figure.update_xaxes(type="log")
    return str(figure.to_html(include_plotlyjs=True))
