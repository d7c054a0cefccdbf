"""The chat page and an API as OpenAI's. In: an engine, its tokenizer, settings. Out: a FastAPI application. Next: server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from luthier.config.sampling import SamplingSection
from luthier.generate.engine import Engine
from luthier.serve.answers import AnswerResponse, Question, Service, internal_error
from luthier.serve.guard import Guard, read_body
from luthier.serve.request import ApiError, parse_request
from luthier.tokenizer.chat import render_prompt
from luthier.tokenizer.tokenizer import Tokenizer

PAGE = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}


def create_app(
    engine: Engine,
    tokenizer: Tokenizer,
    settings: SamplingSection,
    model_name: str,
    info: Mapping[str, Any],
    *,
    system_prompt: str | None = None,
    hosts: Iterable[str] = (),
    waiting_limit: int = 64,
) -> FastAPI:
    """Make the application; `app.state.service` is the engine's queue.

    `settings` are the defaults of a request. `info` is shown with the model; its `questions`, a list, are offered by the page.
    `hosts` are names under which the server is reached besides the loopback's. At most `waiting_limit` requests wait for the engine.
    """
    service = Service(engine, tokenizer, model_name, waiting_limit)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(title="luthier", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Guard, hosts=tuple(hosts))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    _add_page(app)
    _add_status(app, service, _model_card(engine, settings, model_name, info))
    _add_chat(app, service, settings, system_prompt)
    return app


def _add_page(app: FastAPI) -> None:
    folder = resources.files("luthier.serve")
    for path, (name, kind) in PAGE.items():
        app.add_api_route(path, _file(folder.joinpath(name).read_bytes(), kind), response_class=Response)


def _file(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return file


def _model_card(engine: Engine, settings: SamplingSection, model_name: str, info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": model_name,
        "object": "model",
        "created": 0,
        "owned_by": "luthier",
        "parameters": engine.parameters,
        "max_context": engine.max_context,
        "defaults": {"temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": settings.max_new_tokens},
        "info": dict(info),
    }


def _add_status(app: FastAPI, service: Service, card: Mapping[str, Any]) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        state = {"status": "stopping" if service.stopping else "ok", "model": service.model_name}
        return JSONResponse({**state, "busy": service.busy, "waiting": service.waiting}, 503 if service.stopping else 200)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [card]})


def _add_chat(app: FastAPI, service: Service, settings: SamplingSection, system_prompt: str | None) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        try:
            body = await read_body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        asked = parse_request(body)
        if asked.model is not None and asked.model != service.model_name:
            raise ApiError(404, "there is no model of this name here; GET /v1/models names it", param="model", code="model_not_found")
        messages = asked.conversation(system_prompt)
        try:
            prompt_ids = await to_thread.run_sync(render_prompt, messages, service.tokenizer)
        except Exception as error:
            raise internal_error(error) from None
        context = service.engine.max_context
        if len(prompt_ids) >= context:
            raise ApiError(
                400,
                f"the messages make a prompt of {len(prompt_ids)} tokens; the model's context holds {context}, the answer included",
                param="messages",
                code="context_length_exceeded",
            )
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        question = Question(prompt_ids, asked.sampling(settings), tuple(asked.stop or ()), asked.seed, bool(asked.stream), include_usage)
        return AnswerResponse(service, question)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), error.status_code, error.headers)
