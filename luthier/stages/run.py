"""Verb run (and each stage's own verb): a recipe's stages, a summary, and then a chat. Results to stdout, the rest to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from luthier.config.load import load_recipe
from luthier.config.schema import Recipe
from luthier.errors import ConfigError
from luthier.runs.progress import duration, progress_for
from luthier.stages.output import print_json, print_rows
from luthier.stages.pipeline import STAGES, run_recipe
from luthier.stages.summary import command, summarise, summary_rows


def recipe_from(arguments: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Split a command line into recipes and overrides and load them.

    Raises: ConfigError
    """
    overrides = [argument for argument in arguments if "=" in argument]
    paths = [argument for argument in arguments if "=" not in argument]
    if not paths:
        raise ConfigError("no recipe was given", fix="for example: luthier run recipes/quickstart.toml")
    return load_recipe(paths, overrides), overrides


def run_verb(arguments: Sequence[str], *, as_json: bool, until: str = STAGES[-1], then_chat: bool = False) -> None:
    """Run a recipe's stages up to `until` and print what came of it."""
    recipe, overrides = recipe_from(arguments)
    progress = progress_for()
    run, done = run_recipe(recipe, progress, overrides, until)
    summary = summarise(run, [stage.as_dict() for stage in done])
    if all(stage.cached for stage in done):
        progress.say("nothing to do: every stage was already done")
    else:
        progress.say(f"done in {duration(sum(stage.seconds for stage in done))}")
    if as_json:
        print_json(summary)
        return
    print_rows(summary_rows(summary))
    if then_chat:
        from luthier.stages.chat import chat_verb

        if sys.stdin.isatty() and sys.stdout.isatty():
            chat_verb(str(run.path), False, {}, None, [], as_json=False)
        else:
            _show_answers(summary)


def _show_answers(summary: dict[str, object]) -> None:
    """Print the questions of the evaluation with base and tuned answers, and the command to chat."""
    answers = summary.get("answers")
    for entry in answers if isinstance(answers, list) else []:
        print(f"\nQuestion: {entry['question']}")
        for name in ("base", "tuned"):
            if name in entry:
                print(f"  {name + ':':<7}{' '.join(entry[name]['answer'].split())}")
    print(f"\nA model this small writes English; its facts are often wrong.\nTo chat: {command()} chat {summary['run']}")
