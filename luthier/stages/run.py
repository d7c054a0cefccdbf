"""Verb run (and each stage's own verb): a recipe's stages, a summary, and then a chat. Results to stdout, the rest to stderr."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from luthier.config.smoke import smoke
from luthier.errors import ConfigError
from luthier.plan.report import plan
from luthier.runs.progress import duration, progress_for
from luthier.stages.arguments import recipe_from, seconds_of
from luthier.stages.order import LAST, last_of_kind
from luthier.stages.output import print_json, print_rows
from luthier.stages.pipeline import run_recipe
from luthier.stages.smoke import check_smoke
from luthier.stages.stage import follows
from luthier.stages.summary import command, summarise, summary_rows


def run_verb(
    arguments: Sequence[str],
    *,
    as_json: bool,
    until: str | None = None,
    kind: str | None = None,
    then_chat: bool = False,
    budget: str | None = None,
    restarts: int | None = None,
    resume: str | None = None,
    allow: Sequence[str] = (),
    tiny: bool = False,
) -> int:
    """Run a recipe's stages up to `until`, or the last one of a kind of `[[post]]`, and print what came of it.

    With `restarts` it runs as a child that is started again after a crash; `tiny` shrinks the recipe and checks what came of it.
    """
    seconds = None if budget is None else seconds_of(budget)
    recipe, overrides = recipe_from(arguments)
    if tiny:
        plan(recipe, None)  # refuses what the recipe itself could not begin with
        recipe = smoke(recipe)
    until = until or (LAST if kind is None else last_of_kind(recipe, kind))
    of_post = until in {section.name for section in recipe.post}
    words = ["run", *arguments, "--until", until] if of_post or tiny else ["run" if until == LAST else until, *arguments]
    words += [*(["--json"] if as_json else []), *(["--chat"] if then_chat else []), *(["--resume", resume] if resume else [])]
    words += ["--smoke"] if tiny else []
    words += [word for key in allow for word in ("--allow-change", key)]
    if restarts is not None:
        from luthier.stages.supervise import supervise

        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ConfigError("--supervise and torchrun do not go together: all ranks must start again", fix="torchrun --max-restarts 5")
        if then_chat:
            raise ConfigError("--supervise and --chat do not go together", fix=f"chat when it is done: {command()} chat RUN")
        return supervise(words, Path(recipe.runs.root), restarts, seconds)
    if follows():
        from luthier.stages.follow import follow

        follow(recipe, until, resume, allow)
        return 0
    progress = progress_for()
    again = shlex.join([command(), *words])
    run, done = run_recipe(recipe, progress, overrides, until, seconds=seconds, resume=resume, allow=allow, command=again)
    summary = summarise(run, [stage.as_dict() for stage in done])
    if all(stage.cached for stage in done):
        progress.say("nothing to do: every stage was already done")
    else:
        progress.say(f"done in {duration(sum(stage.seconds for stage in done))}")
    checks = check_smoke(run, recipe, summary) if tiny and until == LAST else []
    code = 0 if all(check.good for check in checks) else 1
    if as_json:
        print_json({**summary, "smoke": [check._asdict() for check in checks]} if tiny else summary)
        return code
    print_rows(summary_rows(summary))
    if tiny and not checks:
        progress.say(f"smoke: not checked, as it ended with {until}; without --until it is")
    if tiny:
        print_rows([(f"smoke: {check.name}", f"{'good' if check.good else 'BAD'}: {check.found}") for check in checks])
    if then_chat:
        from luthier.stages.chat import chat_verb

        if sys.stdin.isatty() and sys.stdout.isatty():
            chat_verb(str(run.path), False, {}, None, [], as_json=False)
        else:
            _show_answers(summary)
    return code


def _show_answers(summary: dict[str, object]) -> None:
    """Print the questions of the evaluation with base and tuned answers, and the command to chat."""
    answers = summary.get("answers")
    for entry in answers if isinstance(answers, list) else []:
        print(f"\nQuestion: {entry['question']}")
        for name in ("base", "tuned"):
            if name in entry:
                print(f"  {name + ':':<7}{' '.join(entry[name]['answer'].split())}")
    print(f"\nA model this small writes English; its facts are often wrong.\nTo chat: {command()} chat {summary['run']}")
