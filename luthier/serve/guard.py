"""What is checked before a request reaches the model. In: any HTTP request. Out: the request, or a refusal. Next: api.

A web page elsewhere must not be able to use a model on this machine: names that merely resolve to it are refused (Host), and so are
posts from foreign pages (Origin). No answer carries CORS headers; every answer carries the headers below.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.serve.request import ApiError

MAX_BODY = 2**20
BODY_SECONDS = 15.0
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^:/@\[\]\s]+)(?::[0-9]{1,5})?")
LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))


class Guard:
    """ASGI middleware: Host and Origin checks, and headers for every answer.

    `hosts` are names under which the server may be addressed besides the loopback's. With `0.0.0.0` or `::` among them any literal
    address is one: only names can be rebound to another machine.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = {*LOOPBACK_NAMES, *(_bracketed(host) for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                added = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await send_error(error, send_guarded)
            return
        await self.app(scope, receive, send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._known(hosts[0]):
            raise ApiError(403, "this Host is not served here; use localhost or the address the server was started with", code="host")
        if scope["method"] in ("GET", "HEAD"):
            return
        for origin in (value for name, value in headers if name == b"origin"):
            if origin.lower() not in (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower()):
                raise ApiError(403, "requests from other sites' pages are not answered", code="origin")

    def _known(self, host: str) -> bool:
        parts = AUTHORITY.fullmatch(host.lower())
        if parts is None:
            return False
        name = parts[1]
        if name in self.hosts:
            return True
        if not self.hosts & {"0.0.0.0", "[::]"}:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


async def read_body(request: Request) -> bytes:
    """Read a body of at most 1 MiB.

    Raises: ApiError 413 when it is larger, 408 when it does not come, 400 when its length is no number.
    """
    too_large = ApiError(413, f"the body must be at most {MAX_BODY:,} bytes", headers={"connection": "close"})
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise ApiError(400, "content-length must be a number")
    if len(length) > 18 or int(length) > MAX_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s", headers={"connection": "close"}) from None
    return bytes(body)


async def send_error(error: ApiError, send: Send) -> None:
    """Answer with an error."""
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _bracketed(host: str) -> str:
    return f"[{host}]".lower() if ":" in host and not host.startswith("[") else host.lower()
