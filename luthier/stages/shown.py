"""Verbs sft show, dpo show: what is learned from some records. In: a recipe. Out: their tokens, those that the loss counts in colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from luthier.config.post import PairsSection, PostSftSection
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.pack.conversations import Supervise, fit
from luthier.pack.preferences import fit_pair
from luthier.runs.progress import Progress, progress_for
from luthier.runs.store import Store
from luthier.stages.arguments import recipe_from
from luthier.stages.order import last_of_kind
from luthier.stages.output import print_json
from luthier.stages.pipeline import run_recipe
from luthier.stages.sft import assistant_name, with_system
from luthier.stages.tuning import system_messages
from luthier.tasks.build import build_conversations
from luthier.tasks.conversation import Conversation
from luthier.tasks.preferences import build_preferences
from luthier.tokenizer.tokenizer import Tokenizer

Record = TypeVar("Record")
Shown = TypeVar("Shown", PostSftSection, PairsSection)


def show_verb(arguments: Sequence[str], count: int, stage: str | None, as_json: bool) -> None:
    """Print some training conversations of `[sft]`, or of a stage of `[[post]]`; the tokenizer is made first when it is not there.

    Raises: ConfigError when there are none
    """
    recipe, overrides = recipe_from(arguments)
    settings = recipe.sft if stage in (None, "sft") else _section(recipe, stage, PostSftSection)
    if not settings.sources:
        raise ConfigError(f"{stage or 'sft'}.sources is empty: there is nothing to show", fix="name a source of conversations")
    run, tokenizer, cache, progress = _tokenizer(recipe, overrides)
    called = assistant_name(settings, recipe)
    made = build_conversations(settings.sources, recipe.run.seed, settings.validation_share, cache, progress, called)
    chosen = with_system(_spread(made.train, count), system_messages(settings.system_prompt))
    rows = [_row(one, tokenizer, (settings.seq_len or recipe.pack.seq_len) + 1, settings.supervise) for one in chosen]
    if as_json:
        print_json({"run": str(run), "supervise": settings.supervise, "conversations": rows, "sources": made.sources})
        return
    for row in rows:
        _print(row)
    tokens, learned = (sum(row[key] for row in rows) for key in ("tokens", "supervised_tokens"))
    print(f"{len(rows)} of {len(made.train):,} conversations: {learned} of {tokens} tokens are learned ({learned / max(1, tokens):.1%})")


def show_pairs_verb(arguments: Sequence[str], count: int, stage: str | None, as_json: bool) -> None:
    """Print some training pairs of a stage of kind `dpo` or `reward`, by default the last `dpo`, each side as a conversation.

    Raises: ConfigError when there is no such stage
    """
    recipe, overrides = recipe_from(arguments)
    settings = _section(recipe, stage or last_of_kind(recipe, "dpo"), PairsSection)
    run, tokenizer, cache, progress = _tokenizer(recipe, overrides)
    made = build_preferences(settings.sources, recipe.run.seed, settings.validation_share, cache, progress)
    system = system_messages(settings.system_prompt or recipe.sft.system_prompt)
    rows: list[dict[str, Any]] = []
    longest = recipe.pack.seq_len
    for one in _spread(made.train, count):
        sides, whole = fit_pair(one, system, tokenizer, longest, (settings.seq_len or 2 * longest) + 1)
        for name, (ids, mask) in zip(("chosen", "rejected"), sides or (([], []), ([], [])), strict=True):
            rows.append({"side": name, **_shown(one.place, one.source, ids, mask, whole, tokenizer)})
    if as_json:
        print_json({"run": str(run), "pairs": rows, "sources": made.sources})
        return
    for row in rows:
        _print(row)
    print(f"{len(rows) // 2} of {len(made.train):,} pairs")


def _section(recipe: Recipe, name: str | None, kind: type[Shown]) -> Shown:
    for section in recipe.post:
        if section.name == name and isinstance(section, kind):
            return section
    known = ", ".join(section.name for section in recipe.post if isinstance(section, kind)) or "none"
    raise ConfigError(f"--stage {name}: there is nothing to show of it", fix=f"stages of [[post]] that can be shown so: {known}")


def _tokenizer(recipe: Recipe, overrides: list[str]) -> tuple[Path, Tokenizer, Path, Progress]:
    """The recipe's run, its tokenizer, made if it is not there, the store's cache, and where to report."""
    progress = progress_for()
    run, stages = run_recipe(recipe, progress, overrides, "tokenizer")
    return run.path, Tokenizer.load(stages[-1].directory / "tokenizer.json"), Store(Path(recipe.runs.root)).cache, progress


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """Some records from all over, so that every source has a chance."""
    count = min(count, len(records))
    return [records[(2 * i + 1) * len(records) // (2 * count)] for i in range(count)]


def _row(one: Conversation, tokenizer: Tokenizer, capacity: int, supervise: Supervise) -> dict[str, Any]:
    ids, mask, whole = fit(one.messages, tokenizer, capacity, supervise)
    return _shown(one.place, one.source, ids, mask, whole, tokenizer)


def _shown(place: str, source: str, ids: Sequence[int], mask: Sequence[bool], whole: bool, tokenizer: Tokenizer) -> dict[str, Any]:
    """What is known of a conversation's tokens, and their text in pieces that are learned or not."""
    runs = [(learned, [token for token, _ in run]) for learned, run in groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])]
    pieces = [{"text": _text(tokenizer, run), "learned": learned, "tokens": len(run)} for learned, run in runs]
    fate = "whole" if whole else "cut" if ids else "left out"
    return {"place": place, "source": source, "fate": fate, "tokens": len(ids), "supervised_tokens": sum(mask), "pieces": pieces}


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text with its special tokens, whose bytes are their strings."""
    names = {token: string for string, token in tokenizer.special.by_string.items()}
    parts = ("".join(names[t] for t in run) if special else tokenizer.decode(run) for special, run in _by_kind(ids, names))
    return "".join(parts)


def _by_kind(ids: Sequence[int], names: dict[int, str]) -> list[tuple[bool, list[int]]]:
    return [(special, list(run)) for special, run in groupby(ids, key=lambda token: token in names)]


def _print(row: dict[str, Any]) -> None:
    """Print what is learned in colour on a terminal, and between brackets elsewhere."""
    from rich.console import Console
    from rich.text import Text

    side = f", {row['side']}" if "side" in row else ""
    head = f"{row['place'] or row['source']}{side}: {row['supervised_tokens']} of {row['tokens']} tokens are learned, {row['fate']}"
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        print(head)
        print("".join(f"⟦{piece['text']}⟧" if piece["learned"] else piece["text"] for piece in row["pieces"]), end="\n\n")
        return
    shown = Text(head, style="bold")
    shown.append("\n")
    for piece in row["pieces"]:
        shown.append(piece["text"], style="bold green not dim" if piece["learned"] else "dim not bold")
    Console(markup=False, highlight=False).print(shown, end="\n\n")
