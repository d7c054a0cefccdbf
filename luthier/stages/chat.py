"""Verb chat: talk to a run's model in the terminal, or ask and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.errors import ConfigError
from luthier.generate.chat import ChatSession
from luthier.runs.registry import find_run, runs_root
from luthier.serve.terminal import chat
from luthier.stages.loading import Loaded, load_run
from luthier.stages.output import print_json


def chat_verb(
    run: str, base: bool, changes: Mapping[str, Any], seed: int | None, ask: Sequence[str], *, as_json: bool, root: str | None = None
) -> None:
    """Open a session with a run's model.

    Raises: ConfigError for settings out of range, CheckpointError when the run has no model yet.
    """
    loaded = load_run(find_run(run, runs_root(root)), base)
    session = ChatSession(loaded.engine, loaded.tokenizer, sampling(loaded, changes), loaded.recipe.sft.system_prompt, seed)
    if not ask and not as_json:
        chat(session, loaded.run.path.name)
        return
    if not ask:
        raise ConfigError("chat --json needs --ask, once for each turn")
    turns: list[dict[str, Any]] = []
    for question in ask:
        answer = "".join(session.reply(question)).strip()
        turns.append({"question": question, "answer": answer, "finish_reason": session.finish_reason})
        if not as_json:
            print(answer)
    if as_json:
        print_json({"run": str(loaded.run.path), "tuned": loaded.tuned, "turns": turns})


def sampling(loaded: Loaded, changes: Mapping[str, Any]) -> Any:
    """The recipe's sampling with some settings changed.

    Raises: ConfigError when one is out of range.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    settings = loaded.recipe.sampling
    try:
        return type(settings).model_validate({**settings.model_dump(), **given})
    except ValueError as error:
        raise ConfigError(f"{', '.join(given)}: out of range: {error}") from None
