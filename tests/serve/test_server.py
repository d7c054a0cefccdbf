"""The server on a real port: streaming, disconnects, the queue, stopping, a taken port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthier.errors import ConfigError, PortInUseError
from luthier.serve.server import bind, listening_pid, next_free_port, url
from luthier.tokenizer.tokenizer import Tokenizer
from tests.serve.conftest import ASK, ScriptedEngine, make_app, running

CHAT = "/v1/chat/completions"
PATIENCE = 30.0
STREAM = {**ASK, "stream": True, "max_tokens": 100}


def until(condition: Callable[[], Any]) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class Gate:
    """Lets one step of an engine through for each `open()`."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self.reached = -1

    def __call__(self, step: int) -> None:
        self.reached = step
        assert self._steps.acquire(timeout=PATIENCE)

    def open(self, steps: int = 1) -> None:
        self._steps.release(steps)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def engine(tokenizer: Tokenizer, gate: Gate) -> ScriptedEngine:
    return ScriptedEngine(tokenizer, "The violin has four strings and a luthier makes it.", gate)


def test_an_answer_arrives_while_it_is_made(engine: ScriptedEngine, tokenizer: Tokenizer, gate: Gate) -> None:
    with running(make_app(engine, tokenizer)) as (address, _), httpx.Client(base_url=address, timeout=PATIENCE) as http:
        gate.open(3)
        with http.stream("POST", CHAT, json=STREAM) as response:
            lines = (line for line in response.iter_lines() if line)
            first = [next(lines) for _ in range(3)]
            assert all(line.startswith("data: {") for line in first)
            assert engine.generations[0].finish_reason is None  # the rest is not made yet
            gate.open(1000)
            rest = list(lines)
        assert rest[-1] == "data: [DONE]"
        pieces = [json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in (*first, *rest[:-1])]
        assert "".join(pieces) == "The violin has four strings and a luthier makes it."


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_the_engine(engine: ScriptedEngine, tokenizer: Tokenizer, gate: Gate, stream: bool) -> None:
    """E2."""
    app = make_app(engine, tokenizer)
    with running(app) as (address, _), httpx.Client(base_url=address, timeout=PATIENCE) as http:
        body = json.dumps({**STREAM, "stream": stream}).encode()
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            gate.open(2)
            until(lambda: gate.reached == 2)  # the third token is being made
            assert http.get("/health").json()["busy"] is True
        until(lambda: not http.get("/health").json()["busy"])  # although that token is still not there
        assert gate.reached == 2
        gate.open()
        until(lambda: engine.generations[0]._cache is None and not engine.generations[0]._open)
        assert engine.steps == 3
        gate.open(1000)
        assert http.post(CHAT, json=ASK).status_code == 200


def test_a_client_that_goes_away_while_waiting_leaves_the_queue(engine: ScriptedEngine, tokenizer: Tokenizer, gate: Gate) -> None:
    """E2."""
    app = make_app(engine, tokenizer)
    with running(app) as (address, _), ThreadPoolExecutor() as pool, httpx.Client(base_url=address, timeout=PATIENCE) as http:
        first = pool.submit(httpx.post, address + CHAT, json=ASK, timeout=PATIENCE)
        until(lambda: gate.reached == 0)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address + CHAT, json=ASK, timeout=0.3)
        until(lambda: http.get("/health").json()["waiting"] == 0)
        gate.open(1000)
        assert first.result().status_code == 200
        assert len(engine.generations) == 1


def test_beyond_the_queue_is_429_and_all_others_are_answered(engine: ScriptedEngine, tokenizer: Tokenizer, gate: Gate) -> None:
    app = make_app(engine, tokenizer, waiting_limit=3)
    with running(app) as (address, _), ThreadPoolExecutor(12) as pool, httpx.Client(base_url=address, timeout=PATIENCE) as http:
        waiting = [pool.submit(httpx.post, address + CHAT, json=ASK, timeout=PATIENCE) for _ in range(4)]
        until(lambda: http.get("/health").json() == {"status": "ok", "model": "tiny", "busy": True, "waiting": 3})
        for stream in (False, True):
            refused = http.post(CHAT, json={**ASK, "stream": stream})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            assert refused.json()["error"]["type"] == "rate_limit_error"
        gate.open(10_000)
        assert [future.result().status_code for future in waiting] == [200] * 4
        assert http.get("/health").json()["busy"] is False


def test_caches_are_freed_after_many_answers(tokenizer: Tokenizer) -> None:
    """E15."""
    engine = ScriptedEngine(tokenizer, "Hi")
    with running(make_app(engine, tokenizer)) as (address, _), httpx.Client(base_url=address, timeout=PATIENCE) as http:
        for n in range(20):
            http.post(CHAT, json={"messages": [{"role": "user", "content": f"number {n}"}]})
        caches = [weakref.ref(generation) for generation in engine.generations]
        assert all(generation._cache is None for generation in engine.generations)
        engine.generations.clear()
        until(lambda: not any(ref() for ref in caches))


def test_stopping_lets_an_open_answer_end(engine: ScriptedEngine, tokenizer: Tokenizer, gate: Gate) -> None:
    """E12."""
    with running(make_app(engine, tokenizer)) as (address, server), ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, address + CHAT, json=STREAM, timeout=PATIENCE)
        until(lambda: gate.reached == 0)
        server.should_exit = True
        gate.open(1000)
        assert answer.result().text.endswith("data: [DONE]\n\n")


def test_stopping_ends_a_long_answer_with_an_error_event(tokenizer: Tokenizer) -> None:
    """E12."""
    engine = ScriptedEngine(tokenizer, "x" * 90, lambda _: time.sleep(0.2))
    app = make_app(engine, tokenizer)
    with running(app, drain_seconds=0.3) as (address, server), ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, address + CHAT, json=STREAM, timeout=PATIENCE)
        until(lambda: engine.steps > 0)
        server.should_exit = True
        events = answer.result().text.strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "stopping"
    assert engine.steps < 90


def test_a_taken_port_names_its_process_and_a_free_one() -> None:
    """E1."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUseError) as caught:
            bind("127.0.0.1", port)
        free = next_free_port("127.0.0.1", port + 1)
    assert caught.value.exit_code == 4
    assert str(port) in caught.value.message
    if sys.platform.startswith("linux"):
        assert f"process {os.getpid()}" in caught.value.message
    assert f"such as {free}" in str(caught.value.fix)


def test_nobody_listens_or_nothing_can_be_known(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert listening_pid(port, tmp_path) is None
    assert listening_pid(port) is None


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", -1), ("127.0.0.1", 65_536), ("203.0.113.7", 0), ("no such host", 0), ("a" * 70, 0)]
)
def test_what_cannot_be_served_is_a_users_mistake(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="must be"):
        bind(host, port)


def test_urls() -> None:
    assert url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url("0.0.0.0", 80) == "http://localhost:80"
    assert url("::1", 80) == "http://[::1]:80"


@pytest.mark.parametrize(("number", "ending"), [(signal.SIGTERM, "Terminated"), (signal.SIGINT, "quiet")])
def test_signals_end_the_process_in_order(number: signal.Signals, ending: str) -> None:
    program = """
        from luthier.errors import Terminated
        from luthier.serve.server import serve
        from tests.serve.conftest import ScriptedEngine, make_app, tiny_tokenizer
        tokenizer = tiny_tokenizer()
        try:
            serve(make_app(ScriptedEngine(tokenizer, "Hi"), tokenizer), "127.0.0.1", 0, announce=lambda at: print(at, flush=True))
            print("quiet")
        except Terminated:
            print("Terminated")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert httpx.post(address + CHAT, json=ASK, timeout=PATIENCE).json()["choices"][0]["message"]["content"] == "Hi"
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert out.strip() == ending
    assert err == ""
    assert process.returncode == 0
