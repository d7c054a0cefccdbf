"""Answers over HTTP, one at a time. In: a checked request. Out: JSON or server-sent events. Next: api.

The engine computes in one thread of its own; a request holds its turn only while its client listens. When the client goes away the
request is cancelled, at the latest after the token being made, and its KV cache is freed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from luthier.config.sampling import SamplingSection
from luthier.generate.chat import start_answer
from luthier.generate.engine import Engine
from luthier.generate.text import TextGeneration
from luthier.serve.guard import send_error
from luthier.serve.request import ApiError
from luthier.tokenizer.tokenizer import Tokenizer

log = logging.getLogger("luthier.serve")
Value = TypeVar("Value")
RETRY_SECONDS = 5
SEND_SECONDS = 30.0
"""A client that takes no byte for so long is taken for gone."""


@dataclass(frozen=True)
class Question:
    """What one request asks of the model."""

    prompt_ids: list[int]
    settings: SamplingSection
    stops: tuple[str, ...]
    seed: int | None
    stream: bool
    include_usage: bool


class Service:
    """One engine and the queue before it."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, model_name: str, waiting_limit: int) -> None:
        self.engine, self.tokenizer, self.model_name = engine, tokenizer, model_name
        self.waiting_limit = waiting_limit
        self.waiting = 0
        self.stopping = False
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="luthier-engine")

    @property
    def busy(self) -> bool:
        """Whether an answer is being made."""
        return self._lock.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the engine in the order of arrival.

        Raises: ApiError 429 when too many wait already, 503 while the server stops.
        """
        if (self.busy or self.waiting) and self.waiting >= self.waiting_limit:
            raise ApiError(
                429, f"{self.waiting} requests are waiting already; try again later", headers={"retry-after": str(RETRY_SECONDS)}
            )
        self.waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self.waiting -= 1
        try:
            self.check_running()
            yield
        finally:
            self._lock.release()

    def check_running(self) -> None:
        """Raise ApiError 503 while the server stops."""
        if self.stopping:
            raise ApiError(503, "the server is stopping", code="stopping")

    async def compute(self, work: Callable[[], Value]) -> Value:
        """Run a piece of work in the engine's thread; when cancelled, the piece ends and its result is dropped."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def later(self, work: Callable[[], None]) -> None:
        """Run a piece of work in the engine's thread after what it is doing now."""
        try:
            self._thread.submit(work)
        except RuntimeError:  # the thread has ended with the server
            work()

    def close(self) -> None:
        """End the engine's thread."""
        self._thread.shutdown(wait=True)


class AnswerResponse(Response):
    """Makes an answer while it is sent, and stops when the client disconnects."""

    def __init__(self, service: Service, question: Question) -> None:
        super().__init__()
        self.service, self.question = service, question
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk" if question.stream else "chat.completion",
            "created": int(time.time()),
            "model": service.model_name,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            async def send_in_time(message: Any) -> None:
                with anyio.move_on_after(SEND_SECONDS) as patience:
                    await send(message)
                if patience.cancelled_caught:
                    group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._answer(send_in_time)
            group.cancel_scope.cancel()

    async def _answer(self, send: Send) -> None:
        started = False

        async def send_noting(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with self.service.turn(), self._begun() as answer:
                await (self._stream if self.question.stream else self._whole)(answer, send_noting)
        except Exception as error:
            problem = error if isinstance(error, ApiError) else internal_error(error)
            if started:
                await send({"type": "http.response.body", "body": _event(problem.body())})
            else:
                await send_error(problem, send)

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[TextGeneration]:
        service, question = self.service, self.question
        answer = start_answer(
            service.engine, service.tokenizer, question.prompt_ids, question.settings, stops=question.stops, seed=question.seed
        )
        try:
            yield answer
        finally:
            service.later(answer.close)

    async def _pieces(self, answer: TextGeneration) -> AsyncIterator[str]:
        while (piece := await self.service.compute(lambda: next(answer, None))) is not None:
            self.service.check_running()
            yield piece

    async def _whole(self, answer: TextGeneration, send: Send) -> None:
        text = "".join([piece async for piece in self._pieces(answer)])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        body = json.dumps({**self._head, "choices": [choice], "usage": self._usage(answer)}, ensure_ascii=False).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, answer: TextGeneration, send: Send) -> None:
        async def event(value: Any) -> None:
            await send({"type": "http.response.body", "body": _event(value), "more_body": True})

        def chunk(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
            return {**self._head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}

        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        begun = False
        async for piece in self._pieces(answer):
            if not begun:  # the first token decides between an answer and an error status
                begun = True
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await event(chunk({"role": "assistant", "content": ""}))
            if piece:
                await event(chunk({"content": piece}))
        await event(chunk({}, answer.finish_reason))
        if self.question.include_usage:
            await event({**self._head, "choices": [], "usage": self._usage(answer)})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _usage(self, answer: TextGeneration) -> dict[str, int]:
        prompt, made = answer.generation.prompt_tokens, answer.generation.count
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def internal_error(error: Exception) -> ApiError:
    """Log a failure under an id without its message, which may quote a prompt, and give the client the id only."""
    name = secrets.token_hex(6)
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("answer %s failed: %s\n%s", name, type(error).__name__, frames)
    return ApiError(500, f"the model failed to answer; the server's log has it under {name}", code=name)


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
