"""Engines for tests of the server: a tiny random decoder, and one whose answers are known, slow, or failing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from luthier.config.sampling import SamplingSection
from luthier.generate.engine import Engine, Generation
from luthier.serve.api import create_app
from luthier.serve.server import Server, bind
from luthier.tokenizer.tokenizer import Tokenizer
from tests.generate.conftest import tiny_decoder, tiny_tokenizer

SETTINGS = SamplingSection(temperature=0.8, max_new_tokens=16)
CONTEXT = 128
ASK = {"messages": [{"role": "user", "content": "What is a violin?"}]}


class ScriptedGeneration(Generation):
    """Gives the engine's script instead of asking the model; otherwise a generation like any other."""

    def _step(self) -> int:
        engine = self._engine
        assert isinstance(engine, ScriptedEngine)
        engine.before_step(self.count)
        engine.steps += 1
        script = engine.script
        return script[self.count] if self.count < len(script) else engine.end


class ScriptedEngine(Engine):
    """An engine that says a known text; `before_step` may wait or raise."""

    def __init__(self, tokenizer: Tokenizer, text: str, before_step: Callable[[int], Any] = lambda _: None) -> None:
        super().__init__(tiny_decoder(tokenizer.vocab_size, CONTEXT))
        self.script, self.end = tokenizer.encode(text), tokenizer.special.end_of_turn
        self.before_step = before_step
        self.steps = 0
        self.generations: list[ScriptedGeneration] = []

    def stream(self, prompt_ids: Any, settings: Any, *, stop_ids: Any = (), banned_ids: Any = (), seed: Any = None) -> Generation:
        self.generations.append(ScriptedGeneration(self, prompt_ids, settings, stop_ids, banned_ids, seed))
        return self.generations[-1]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


def make_app(engine: Engine, tokenizer: Tokenizer, **options: Any) -> FastAPI:
    return create_app(engine, tokenizer, SETTINGS, "tiny", {"questions": ["What is music?"]}, **options)


@pytest.fixture
def app(tokenizer: Tokenizer) -> FastAPI:
    return make_app(Engine(tiny_decoder(tokenizer.vocab_size, CONTEXT)), tokenizer)


def client(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url=options.pop("base_url", "http://localhost:8000"), **options)


@contextlib.contextmanager
def running(app: FastAPI, drain_seconds: float = 10.0) -> Iterator[tuple[str, Server]]:
    """Serve on a free loopback port in a thread."""
    listener = bind("127.0.0.1", 0)
    server = Server(app, drain_seconds)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
