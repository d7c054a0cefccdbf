"""Verb sft show: what is learned from some conversations. In: a recipe. Out: their tokens, those that the loss counts in colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from luthier.errors import ConfigError
from luthier.pack.conversations import fit
from luthier.runs.progress import progress_for
from luthier.runs.store import Store
from luthier.stages.output import print_json
from luthier.stages.pipeline import run_recipe
from luthier.stages.run import recipe_from
from luthier.stages.sft import assistant_name, with_system
from luthier.tasks.build import build_conversations
from luthier.tasks.conversation import Conversation, Message
from luthier.tokenizer.tokenizer import Tokenizer


def show_verb(arguments: Sequence[str], count: int, as_json: bool) -> None:
    """Print some of a recipe's training conversations; its tokenizer is made first when it is not there.

    Raises: ConfigError when the recipe has no conversations
    """
    recipe, overrides = recipe_from(arguments)
    settings = recipe.sft
    if not settings.sources:
        raise ConfigError("sft.sources is empty: there is nothing to show", fix="name a source of conversations")
    progress = progress_for()
    run, stages = run_recipe(recipe, progress, overrides, "tokenizer")
    tokenizer = Tokenizer.load(stages[-1].directory / "tokenizer.json")
    called, cache = assistant_name(settings, recipe), Store(Path(recipe.runs.root)).cache
    made = build_conversations(settings.sources, recipe.run.seed, settings.validation_share, cache, progress, called)
    system = [Message("system", settings.system_prompt)] if settings.system_prompt else []
    chosen = with_system(_spread(made.train, count), system)
    rows = [_row(one, tokenizer, (settings.seq_len or recipe.pack.seq_len) + 1, settings.supervise) for one in chosen]
    if as_json:
        print_json({"run": str(run.path), "supervise": settings.supervise, "conversations": rows, "sources": made.sources})
        return
    for row in rows:
        _print(row)
    tokens, learned = (sum(row[key] for row in rows) for key in ("tokens", "supervised_tokens"))
    print(f"{len(rows)} of {len(made.train):,} conversations: {learned} of {tokens} tokens are learned ({learned / max(1, tokens):.1%})")


def _spread(conversations: Sequence[Conversation], count: int) -> list[Conversation]:
    """Some conversations from all over, so that every source has a chance."""
    count = min(count, len(conversations))
    return [conversations[(2 * i + 1) * len(conversations) // (2 * count)] for i in range(count)]


def _row(one: Conversation, tokenizer: Tokenizer, capacity: int, supervise: Any) -> dict[str, Any]:
    ids, mask, whole = fit(one.messages, tokenizer, capacity, supervise)
    runs = [(learned, [token for token, _ in run]) for learned, run in groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])]
    pieces = [{"text": _text(tokenizer, run), "learned": learned, "tokens": len(run)} for learned, run in runs]
    fate = "whole" if whole else "cut" if ids else "left out"
    return {
        "place": one.place,
        "source": one.source,
        "fate": fate,
        "tokens": len(ids),
        "supervised_tokens": sum(mask),
        "pieces": pieces,
    }


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

    head = f"{row['place'] or row['source']}: {row['supervised_tokens']} of {row['tokens']} tokens are learned, {row['fate']}"
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        print(head)
        print("".join(f"⟦{piece['text']}⟧" if piece["learned"] else piece["text"] for piece in row["pieces"]), end="\n\n")
        return
    shown = Text(head, style="bold")
    shown.append("\n")
    for piece in row["pieces"]:
        shown.append(piece["text"], style="bold green not dim" if piece["learned"] else "dim not bold")
    Console(markup=False, highlight=False).print(shown, end="\n\n")
