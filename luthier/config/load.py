"""Recipes from TOML and `key=value`. In: paths and overrides. Out: a resolved `Recipe`. Next room: runs.

Precedence: default < recipe(s) < `key=value`. Every problem is reported at once, an unknown key with the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from luthier.config.model import Architecture, ModelConfig, ModelSection
from luthier.config.post import POST_SECTIONS, DistillSection
from luthier.config.schema import Recipe
from luthier.errors import ConfigError

_ONE_OF = (("pretrain", ("steps", "tokens", "epochs", "tokens_per_param")),)


def load_recipe(paths: Sequence[str | Path], overrides: Iterable[str] = ()) -> Recipe:
    """Read recipes, later ones over earlier ones, apply `key=value` overrides and validate.

    Raises: ConfigError with every problem at once.
    Example: `load_recipe(["recipes/quickstart.toml"], ["optim.lr=1e-3", 'data.sources=["my_folder"]', "post.dpo.beta=0.2"])`
    """
    return validate(read_settings(paths, overrides))


def read_settings(paths: Sequence[str | Path], overrides: Iterable[str] = ()) -> dict[str, Any]:
    """What recipes and overrides say, laid over each other and not yet validated.

    Raises: ConfigError
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = lay_over(merged, _read_toml(Path(path)))
    for override in overrides:
        merged = lay_over(merged, _parse_override(override))
    if paths:
        merged = lay_over({"run": {"name": Path(paths[0]).stem}}, merged)
    environment_root = os.environ.get("LUTHIER_RUNS")
    if environment_root and "root" not in merged.get("runs", {}):
        merged.setdefault("runs", {})["root"] = environment_root
    return merged


def validate(values: Mapping[str, Any]) -> Recipe:
    """Make a `Recipe` of plain values.

    Raises: ConfigError with one line a problem.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(problems)), fix=f"{len(problems)} problem(s) in the recipe") from None


def resolve_model(recipe: Recipe, vocab_size: int | None = None) -> ModelConfig:
    """Derive every dimension the recipe leaves open.

    `vocab_size` is the trained tokenizer's number of entries, once known; before that the recipe's own number stands in.
    """
    model: ModelSection = recipe.model
    entries = vocab_size or recipe.tokenizer.vocab_size
    if model.vocab_size is not None and model.vocab_size < entries:
        raise ConfigError(
            f"model.vocab_size must be at least the tokenizer's {entries} entries, got {model.vocab_size}",
            fix="leave model.vocab_size out to take the tokenizer's number",
        )
    switches = {name: getattr(model, name) for name in Architecture.model_fields}
    if "learned" in model.positions and (model.max_seq_len or recipe.pack.seq_len) < recipe.pack.seq_len:
        raise ConfigError(
            f"model.max_seq_len: {model.max_seq_len} learned positions are too few for rows of pack.seq_len = {recipe.pack.seq_len}",
            fix="leave model.max_seq_len out, or shorten the rows",
        )
    d_ff = 4 * model.d_model if model.mlp != "swiglu" else -(-8 * model.d_model // 3 // 64) * 64
    return ModelConfig(
        **switches,
        d_model=model.d_model,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads or model.n_heads,
        head_dim=model.head_dim or model.d_model // model.n_heads,
        d_ff=model.d_ff or d_ff,
        vocab_size=model.vocab_size or entries,
        max_seq_len=model.max_seq_len or recipe.pack.seq_len,
        rope_theta=model.rope_theta,
        norm_eps=model.norm_eps,
        tie_embeddings=model.tie_embeddings,
        init_std=model.init_std,
    )


def last_model(recipe: Recipe, vocab_size: int | None = None) -> ModelConfig:
    """The shape of the recipe's last model, as `resolve_model`: a student's, where there is one."""
    students = [section.student for section in recipe.post if isinstance(section, DistillSection) and section.student is not None]
    return resolve_model(recipe.model_copy(update={"model": students[-1]}) if students else recipe, vocab_size)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "give the path of a .toml file, like recipes/quickstart.toml"
        raise ConfigError(f"{path}: there is no such recipe", fix=hint) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a recipe is a file, this is a folder") from None
    except PermissionError:
        raise ConfigError(f"{path}: may not be read") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: a recipe is UTF-8 text; byte {error.start} is not") from None
    except (ValueError, RecursionError) as error:  # besides TOML's own errors, numbers and nesting without end
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key or any(not part for part in key.split(".")):
        raise ConfigError(f"{text!r}: an override has the form section.key=value", fix="example: optim.lr=1e-3")
    try:
        value: Any = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{key}: not a value: {error}") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def lay_over(base: Mapping[str, Any], over: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Lay `over` onto `base`; a newly given member of an exactly-one-of group replaces the older one."""
    merged = dict(base)
    for section, group in _ONE_OF:
        if path == (section,) and any(key in over for key in group):
            merged = {key: value for key, value in merged.items() if key not in group}
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, list) and isinstance(value, dict):
            merged[key] = _merge_tables(cast("list[Any]", old), cast("dict[str, Any]", value), (*path, key))
            continue
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = lay_over(cast("dict[str, Any]", old), cast("dict[str, Any]", value), (*path, key)) if both else value
    return merged


def _merge_tables(tables: Sequence[Any], over: Mapping[str, Any], path: tuple[str, ...]) -> list[Any]:
    """Lay values onto tables of a list, each found by its `name`.

    Raises: ConfigError when there is no table of a name
    """
    names = [cast("dict[str, Any]", table).get("name") if isinstance(table, dict) else None for table in tables]
    unknown = next((name for name in over if name not in names), None)
    if unknown is not None:
        known = ", ".join(str(name) for name in names if name) or "none"
        raise ConfigError(f"{'.'.join(path)}.{unknown}: there is no table of that name", fix=f"names are: {known}")
    return [
        lay_over(table, over[str(name)], (*path, str(name))) if isinstance(over.get(str(name)), dict) else table
        for name, table in zip(names, tables, strict=True)
    ]


def _explain(problem: Mapping[str, Any]) -> str:
    """Turn one pydantic problem into a sentence that names the place and the mend."""
    location = [part for part in problem["loc"] if part not in ("function-before", "SourceConfig")]
    where = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{where}: unknown key; {hint}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    got = problem.get("input")
    if isinstance(got, (dict, BaseModel)):
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, got {got!r}"


def _known_keys(location: Sequence[str | int]) -> list[str]:
    model: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        if model is None:  # a part that says of which kind a table is
            kinds = {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in POST_SECTIONS}
            model = kinds.get(part)
            if model is None:
                return []
            continue
        if model is Recipe and part == "post":
            model = None
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        found = _section_in(field.annotation)
        if found is None:
            return []
        model = found
    return list(model.model_fields) if model is not None else []


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _section_in(argument))), None)
