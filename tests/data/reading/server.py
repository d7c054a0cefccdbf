"""A web server that speaks a hub's protocol and misbehaves on request."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Request:
    """A request as the server saw it."""

    def __init__(self, path: str, headers: Any) -> None:
        self.path, self.range, self.condition = path, headers.get("Range"), headers.get("If-Range")
        self.token, self.host = headers.get("Authorization"), headers.get("Host")


class Hub:
    """Files of one dataset, those in `large` behind a redirect to a second server, and faults for the next requests by file name."""

    def __init__(self, files: dict[str, bytes], large: tuple[str, ...] = ()) -> None:
        self.files, self.large = files, large
        self.requests: list[Request] = []
        self.faults: dict[str, list[tuple[str, Any]]] = {}
        self.listed: dict[str, bytes] = {}
        self.heads: dict[str, str] = {"ETag": '"v1"'}
        self.private, self.ranges = False, True
        self.address = self.store = ""

    def listing(self) -> dict[str, Any]:
        """What the hub answers to a question for a revision."""
        siblings: list[dict[str, Any]] = []
        for name, data in {**self.files, **self.listed}.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _git_hash(data)}
            if name in self.large:
                entry |= {"blobId": "0" * 40, "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
            siblings.append(entry)
        return {"id": "me/tales", "sha": COMMIT, "siblings": siblings}

    def asked(self, name: str) -> list[Request]:
        """The requests for a file."""
        return [request for request in self.requests if request.path.endswith(f"/{name}")]


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run a hub and its store on two ports."""
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            return

        def do_GET(self) -> None:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            hub.requests.append(Request(path, self.headers))
            name = path.partition(f"/resolve/{COMMIT}/")[2] or path.removeprefix("/store/").removeprefix("/web/")
            if hub.private and not self.headers.get("Authorization") and "/store/" not in path:
                self._say(401)
            elif path == f"/api/datasets/me/tales/revision/{COMMIT}" or path.endswith(("/revision/main", f"/revision/{COMMIT[:8]}")):
                self._fault("api") or self._give(json.dumps(hub.listing()).encode())
            elif name not in hub.files:
                self._say(404)
            elif name in hub.large and "/resolve/" in path:
                self._say(302, {"Location": f"{hub.store}/store/{urllib.parse.quote(name)}"})
            elif not self._fault(name):
                self._part(hub.files[name])

        def _fault(self, name: str) -> bool:
            kind, value = hub.faults[name].pop(0) if hub.faults.get(name) else ("", None)
            if kind == "status":
                self._say(value, {"Retry-After": "0"})
            elif kind in ("cut", "stall", "slow"):
                self._part(hub.files[name], kind, value)
            return bool(kind)

        def _part(self, data: bytes, fault: str = "", amount: int = 0) -> None:
            asked, begin = self.headers.get("Range"), 0
            condition = self.headers.get("If-Range")
            if asked and hub.ranges and condition in (None, hub.heads.get("ETag"), hub.heads.get("Last-Modified")):
                begin = int(asked.removeprefix("bytes=").rstrip("-"))
                if begin >= len(data):
                    self._say(416, {"Content-Range": f"bytes */{len(data)}"})
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            for key, value in hub.heads.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            rest = data[begin:]
            if fault == "slow":
                for start in range(0, len(rest), amount):
                    self.wfile.write(rest[start : start + amount])
                    time.sleep(0.02)
                return
            self.wfile.write(rest[:amount] if fault else rest)
            if fault == "stall":
                stop.wait(20)
            if fault:
                self.close_connection = True

        def _give(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _say(self, status: int, heads: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (heads or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            return

    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    hub.address, hub.store = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        stop.set()
        for server in servers:
            server.shutdown()
            server.server_close()
