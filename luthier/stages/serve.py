"""Verb serve: a run's model over HTTP, with a chat page."""

from __future__ import annotations

import sys

from luthier.runs.registry import find_run, runs_root
from luthier.serve.api import create_app
from luthier.serve.server import serve
from luthier.stages.loading import load_run
from luthier.stages.output import print_json


def serve_verb(run: str, host: str, port: int, *, as_json: bool, root: str | None) -> None:
    """Serve until Ctrl-C.

    Raises: PortInUseError, CheckpointError
    """
    loaded = load_run(find_run(run, runs_root(root)))
    name = loaded.run.path.name
    recipe = loaded.recipe
    info = {"description": recipe.description, "tuned": loaded.tuned, "questions": list(recipe.eval.questions)}
    system_prompt = recipe.sft.system_prompt
    app = create_app(loaded.engine, loaded.tokenizer, recipe.sampling, name, info, system_prompt=system_prompt, hosts=(host,))

    def announce(address: str) -> None:
        if as_json:
            print_json({"url": address, "model": name})
            sys.stdout.flush()
        else:
            print(f"{name} answers at {address}  (Ctrl-C ends)", flush=True)

    serve(app, host, port, announce=announce)
