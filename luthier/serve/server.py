"""Listen on a port until told to stop. In: an application. Out: nothing; the process serves. Next room: stages."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from luthier.errors import ConfigError, PortInUseError, Terminated

LISTENING = "0A"  # a socket's state in /proc/net/tcp


class Server(uvicorn.Server):
    """uvicorn's server that gives open answers `drain_seconds` to end, then ends them with an error event."""

    def __init__(self, app: FastAPI, drain_seconds: float = 10.0) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(drain_seconds) + 5,
            timeout_keep_alive=30,
        )
        super().__init__(config)
        self._service = app.state.service
        self._drain_seconds = drain_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        def stop() -> None:
            self._service.stopping = True

        timer = asyncio.get_running_loop().call_later(self._drain_seconds, stop)
        await super().shutdown(sockets)
        timer.cancel()


def serve(app: FastAPI, host: str, port: int, *, announce: Callable[[str], Any] = print, drain_seconds: float = 10.0) -> None:
    """Serve until Ctrl-C or SIGTERM; `announce` gets the page's address once connections are taken. Port 0 takes any free one.

    Raises: PortInUseError when the port is taken, ConfigError when host or port cannot be served, Terminated after SIGTERM.
    """
    listener = bind(host, port)
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    # uvicorn takes both signals while it runs and raises them again at its end; there they are only noted.
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        announce(url(host, listener.getsockname()[1]))
        Server(app, drain_seconds).run(sockets=[listener])
    finally:
        listener.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGTERM in received:
        raise Terminated("the server was stopped by SIGTERM; open answers were given time to end")


def url(host: str, port: int) -> str:
    """Give the address to open in a browser."""
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises: PortInUseError, ConfigError
    """
    if not 0 <= port <= 65_535:
        raise ConfigError(f"port must be between 0 and 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"host must be an address of this machine, got {host!r}", fix="use 127.0.0.1") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere this would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _port_in_use(host, port) from None
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} may not be used by this account", fix="use a port above 1023") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"host must be an address of this machine, got {host!r}", fix="use 127.0.0.1") from None
        raise
    return listener


def _port_in_use(host: str, port: int) -> PortInUseError:
    pid = listening_pid(port)
    owner = "another process" if pid is None else f"process {pid}"
    free = next_free_port(host, port + 1)
    return PortInUseError(
        f"port {port} on {host} is already used by {owner}", fix="stop it, or choose another port" + (f", such as {free}" if free else "")
    )


def next_free_port(host: str, first: int) -> int | None:
    """Find the first of a hundred ports that nobody listens on."""
    for port in range(first, min(first + 100, 65_536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    return None


def listening_pid(port: int, proc: Path = Path("/proc")) -> int | None:
    """Find the process that listens on a TCP port; `None` where the system or its permissions do not tell."""
    inodes: set[str] = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if len(fields) > 9 and fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for descriptors in proc.glob("[0-9]*/fd"):
        try:
            if any(os.readlink(link) in inodes for link in descriptors.iterdir()):
                return int(descriptors.parent.name)
        except OSError:
            continue
    return None
