"""The application: answers, refusals, headers. Through ASGI, without a port."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from luthier.generate.engine import Engine
from luthier.tokenizer.tokenizer import Tokenizer
from tests.serve.conftest import ASK, CONTEXT, ScriptedEngine, client, make_app

CHAT = "/v1/chat/completions"


def call(app: FastAPI, method: str, path: str, *, base_url: str = "http://localhost:8000", **options: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with client(app, base_url=base_url) as http:
            return await http.request(method, path, **options)

    return asyncio.run(once())


def ask(app: FastAPI, **fields: Any) -> httpx.Response:
    return call(app, "POST", CHAT, content=json.dumps({**ASK, **fields}))


def events(response: httpx.Response) -> list[Any]:
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") for block in blocks)
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


def streamed_text(response: httpx.Response) -> str:
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events(response) if e["choices"])


def test_an_answer_of_a_real_model(app: FastAPI) -> None:
    body = ask(app, seed=1, max_tokens=5).json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert 0 < usage["completion_tokens"] <= 5
    assert usage["prompt_tokens"] > 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_streamed_and_whole_answers_are_the_same(app: FastAPI) -> None:
    for seed in range(3):
        whole = ask(app, seed=seed).json()
        streamed = ask(app, seed=seed, stream=True, stream_options={"include_usage": True})
        assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert streamed_text(streamed) == whole["choices"][0]["message"]["content"]
        chunks = events(streamed)
        assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == whole["usage"]


def test_a_seed_repeats_an_answer(app: FastAPI) -> None:
    texts = [ask(app, seed=seed, temperature=2).json()["choices"][0]["message"]["content"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_split_characters_and_stop_strings_over_chunk_edges(tokenizer: Tokenizer) -> None:
    """E13."""
    app = make_app(ScriptedEngine(tokenizer, "é 😀 弦楽器 then STOP never"), tokenizer)
    for stream in (False, True):
        response = ask(app, stream=stream, stop=["STOP", "nothing"], max_tokens=100)
        text = streamed_text(response) if stream else response.json()["choices"][0]["message"]["content"]
        assert text == "é 😀 弦楽器 then "
        assert "\ufffd" not in response.text
        reason = (events(response)[-1] if stream else response.json())["choices"][0]["finish_reason"]
        assert reason == "stop"


def test_a_prompt_beyond_the_context_is_refused_with_counts(app: FastAPI) -> None:
    """E5."""
    response = ask(app, messages=[{"role": "user", "content": "strings " * 200}])
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert f"context holds {CONTEXT}" in error["message"]
    assert int(error["message"].split("prompt of ")[1].split()[0]) > CONTEXT


def test_unknown_model_names_are_404_and_open_nothing(app: FastAPI) -> None:
    """E7."""
    opened: list[Any] = []
    watching = [True]

    def watch(event: str, args: Any) -> None:
        if watching[0] and event in ("open", "os.listdir", "socket.connect"):
            opened.append(args)

    sys.addaudithook(watch)
    for name in ("../../etc/passwd", "/etc/passwd", "http://x/y", "a\0b", "C:\\x", "\ud800", "", "x" * 10_000):
        response = ask(app, model=name)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
    watching[0] = False
    assert not opened
    assert ask(app, model="tiny", max_tokens=1).status_code == 200


def test_bad_requests_are_400_in_openais_form(app: FastAPI) -> None:
    """E6."""
    response = ask(app, temperature=-1)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert call(app, "POST", CHAT, content=b"[" * 100_000).status_code == 400


def test_bodies_above_a_mebibyte_are_413_with_and_without_a_length(app: FastAPI) -> None:
    """E4."""
    assert call(app, "POST", CHAT, content=b"x" * (2**20 + 1)).status_code == 413
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 2**20
            yield b"x" * 2**20

    response = call(app, "POST", CHAT, content=endless())
    assert response.status_code == 413
    assert sent <= 3 * 2**20
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_the_largest_body_taken_is_answered(app: FastAPI) -> None:
    """E4."""
    body = json.dumps({"messages": [{"role": "user", "content": "a" * (2**20 - 100)}]})
    assert call(app, "POST", CHAT, content=body).json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.5", "localhost:80:80", "localhost:x", "u@localhost", ""],
)
def test_other_hosts_are_403(app: FastAPI, host: str) -> None:
    """E9."""
    for path in ("/", "/health", "/v1/models"):
        assert call(app, "GET", path, headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"])
def test_the_loopback_is_served(app: FastAPI, host: str) -> None:
    assert call(app, "GET", "/health", headers={"host": host}).status_code == 200


def test_the_bound_host_is_served_and_a_wildcard_serves_addresses_but_no_names(tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "Hi")
    bound = make_app(engine, tokenizer, hosts=("box.lan", "fd00::1"))
    wildcard = make_app(engine, tokenizer, hosts=("0.0.0.0",))
    status = [call(bound, "GET", "/health", headers={"host": h}).status_code for h in ("box.lan:80", "[fd00::1]:80", "10.0.0.5")]
    assert status == [200, 200, 403]
    status = [call(wildcard, "GET", "/health", headers={"host": h}).status_code for h in ("10.0.0.5:80", "[fd00::2]", "evil.example")]
    assert status == [200, 200, 403]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", "http://127.0.0.1:8000"])
def test_posts_from_foreign_pages_are_403_and_never_reach_the_engine(tokenizer: Tokenizer, origin: str) -> None:
    """E9."""
    engine = ScriptedEngine(tokenizer, "Hi")
    response = call(make_app(engine, tokenizer), "POST", CHAT, json=ASK, headers={"origin": origin})
    assert response.status_code == 403
    assert engine.steps == 0


def test_posts_from_its_own_page_are_answered(app: FastAPI) -> None:
    response = call(app, "POST", CHAT, json={**ASK, "max_tokens": 1}, headers={"origin": "http://localhost:8000"})
    assert response.status_code == 200


def test_every_answer_has_the_headers_and_none_has_cors(app: FastAPI) -> None:
    """E9."""
    paths = ("/", "/page.js", "/page.css", "/health", "/nothing")
    responses = [call(app, "GET", path, headers={"origin": "http://evil.example"}) for path in paths]
    responses += [ask(app, max_tokens=1), ask(app, n=2), call(app, "OPTIONS", CHAT), call(app, "GET", "/", headers={"host": "evil"})]
    for response in responses:
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert responses[4].json()["error"]["type"] == "not_found_error"


def test_the_page_needs_nothing_inline_and_nothing_from_elsewhere(app: FastAPI) -> None:
    """E10."""
    page = call(app, "GET", "/").text
    script = call(app, "GET", "/page.js")
    style = call(app, "GET", "/page.css")
    assert script.headers["content-type"].startswith("text/javascript")
    assert style.headers["content-type"].startswith("text/css")
    assert page.count("<script") == 1
    assert '<script src="page.js" defer></script>' in page
    assert not re.search(r"<[^>]*\son\w+=", page)
    assert "style=" not in page
    assert "A model this small writes English but gets facts wrong." in page
    assert "innerHTML" not in script.text
    assert "insertAdjacentHTML" not in script.text
    for text in (page.replace("http://www.w3.org/2000/svg", ""), script.text, style.text):
        assert "http://" not in text
        assert "https://" not in text


def test_the_models_list_describes_the_model(app: FastAPI) -> None:
    card = call(app, "GET", "/v1/models").json()["data"][0]
    engine: Engine = app.state.service.engine
    assert card["id"] == "tiny"
    assert card["parameters"] == sum(p.numel() for p in engine.model.parameters())
    assert card["max_context"] == CONTEXT
    assert card["defaults"] == {"temperature": 0.8, "top_p": 0.95, "max_tokens": 16}
    assert card["info"] == {"questions": ["What is music?"]}


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_raises_gives_500_with_an_id_and_no_detail(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    def fail(step: int) -> None:
        raise RuntimeError("terces"[::-1])

    engine = ScriptedEngine(tokenizer, "Hi", fail)
    app = make_app(engine, tokenizer)
    with caplog.at_level(logging.ERROR):
        response = ask(app, stream=stream)
    error = response.json()["error"]
    assert response.status_code == 500
    assert error["type"] == "server_error"
    assert error["code"] in error["message"]
    assert error["code"] in caplog.text
    assert "RuntimeError" in caplog.text
    for text in (response.text, caplog.text):
        assert "secret" not in text
    assert "Traceback" not in response.text
    engine.before_step = lambda _: None
    assert ask(app).status_code == 200


def test_an_engine_that_raises_later_ends_the_stream_with_an_error_event(tokenizer: Tokenizer) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise RuntimeError("secret")

    response = ask(make_app(ScriptedEngine(tokenizer, "violin violin violin", fail), tokenizer), stream=True)
    last = response.text.strip().split("\n\n")[-1]
    assert response.status_code == 200
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert "[DONE]" not in response.text


def test_prompts_are_never_logged(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """E14."""
    secret = "xylophone diary"
    with caplog.at_level(logging.DEBUG):
        for fields in ({}, {"stream": True}, {"temperature": -1}, {"model": secret}):
            ask(app, **{"messages": [{"role": "user", "content": secret}], "max_tokens": 2, **fields})
    assert secret not in caplog.text


def test_lone_surrogates_are_answered(app: FastAPI) -> None:
    assert ask(app, messages=[{"role": "user", "content": "a \ud800 b"}], max_tokens=2).status_code == 200


def test_package_data_names_the_pages_files() -> None:
    import luthier.serve

    folder = Path(luthier.serve.__file__).parent
    assert {p.name for p in folder.glob("page.*")} == {"page.html", "page.css", "page.js"}
