"""What a client may ask, checked. In: the bytes of a request. Out: `ChatRequest`, or `ApiError`. Next: answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from luthier.config.sampling import SamplingSection
from luthier.tasks.conversation import Message

MAX_STOPS, MAX_STOP_CHARS = 4, 256
MAX_MESSAGES = 1024
MAX_TOKENS = 2**20
IGNORED = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "reasoning_effort")
)
"""Fields of the protocol that cannot change an answer here."""
NEUTRAL: tuple[Any, ...] = (None, False, 0, "", "none", "auto", [], {}, {"type": "text"})
"""Values by which a field that is not supported asks for nothing."""


class ApiError(Exception):
    """A request that is not answered, and why: becomes a status and an error object as OpenAI's API has it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = {429: "rate_limit_error", 404: "not_found_error", 403: "permission_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def _joined(value: Any) -> Any:
    """Join the text parts of a content that is a list; leave the rest to validation."""
    if not isinstance(value, list):
        return value
    texts = [part["text"] for part in value if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)]
    if len(texts) < len(value):
        raise ValueError("a list must hold parts of type text only")
    return "".join(texts)


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]
    name: str | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[list[StopString], Field(max_length=MAX_STOPS), BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`; `top_k` and `repetition_penalty` go beyond OpenAI's."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    messages: list[_Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=0, le=MAX_TOKENS)
    repetition_penalty: float | None = Field(None, ge=1, le=10, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stops | None = None
    n: Literal[1] | None = 1

    def sampling(self, defaults: SamplingSection) -> SamplingSection:
        """Put what the request sets over the server's defaults."""
        asked = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": self.max_completion_tokens or self.max_tokens,
        }
        return defaults.model_copy(update={key: value for key, value in asked.items() if value is not None})

    def conversation(self, system_prompt: str | None) -> list[Message]:
        """Give the messages; the server's system prompt stands first where the client has none of its own."""
        messages = [Message("system" if m.role == "developer" else m.role, m.content) for m in self.messages]
        if system_prompt and not any(m.role == "system" for m in messages):
            messages.insert(0, Message("system", system_prompt))
        return messages


def parse_request(body: bytes) -> ChatRequest:
    """Read a request.

    Raises: ApiError 400 with the name of the field; the value is never repeated.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise ApiError(400, "the body's JSON is nested too deeply") from None
    except ValueError:
        raise ApiError(400, "the body must be a JSON object in UTF-8, without NaN or Infinity") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = [str(part)[:64] for part in problem["loc"]]
        field = place[0] if place else None
        raise ApiError(400, f"{'.'.join(place) or 'body'}: {problem['msg'][:300]}", param=field) from None
    _refuse_unsupported(request.model_extra or {})
    for index, message in enumerate(request.messages):
        _refuse_unsupported({f"messages.{index}.{key}": extra for key, extra in (message.model_extra or {}).items()})
    if request.messages[-1].role != "user":
        raise ApiError(400, "messages: the last message must be the user's", param="messages")
    return request


def _refuse_unsupported(extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if key not in IGNORED and value not in NEUTRAL:
            name = ascii(key[:64])[1:-1]
            raise ApiError(400, f"{name}: not supported by this server; leave it out", param=name, code="unsupported_parameter")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
