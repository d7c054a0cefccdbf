"""File-system operations of this process, watched and disturbed. In: a root, a fault. Out: a list of operations, and the fault.

Everything below the root that creates, writes, syncs, renames or deletes passes through `Shim.operation`, one at a time, whichever
thread it comes from. Writes are seen where they leave the process, below Python's own buffers, so what a killed process still had in
a buffer is lost here as it is in life. Reading is left alone. A sync is counted but not done: nobody pulls a plug here, `disk.py` does.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import io
import os
import re
import shutil
import signal
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDS_SPACE = ("create", "write", "mkdir", "symlink", "link", "rename", "fsync", "fsyncdir")
"""Operations that a full disk may refuse; a sync may, because space can be found to be missing that late."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Fault:
    """What happens at one operation. `label` is its kind and its place; see `label_of`."""

    label: str
    """`*` is any operation, `KIND *` any of a kind."""
    occurrence: int = 1
    """The first is 1; 0 is every one."""
    do: str = "kill"
    """`kill`, `error`, `sleep`, or `signal`, which the process may handle."""
    where: str = "before"
    """`before`, `middle` (of a write: half of its bytes are there) or `after`."""
    errno: int = 28
    signal: int = signal.SIGTERM
    onward: bool = False
    """An error stays: from then on every operation that needs space fails."""
    seconds: float = 0.0


def label_of(kind: str, path: str) -> str:
    """Name an operation so that the same one is found again in another attempt, whatever its random and hashed parts are."""
    place = re.sub(r"(-[0-9a-f]{8})?\.tmp-[0-9a-f-]+", ".tmp", path)
    place = re.sub(r"\b[0-9a-f]{8,}\b", "KEY", place)
    return f"{kind} {re.sub(r'step_[0-9]+', 'step_N', place)}"


class Shim:
    """Watches one directory. `operations` holds (kind, path relative to the root, details)."""

    def __init__(self, root: Path, fault: Fault | None = None, *, content: bool = False) -> None:
        self.root = os.path.realpath(root)
        self.operations: list[tuple[str, str, dict[str, Any]]] = []
        self.hits = 0
        self._fault, self._content = fault, content
        self._seen: Counter[str] = Counter()
        self._failing = False
        self._places: dict[int, tuple[str, int | None]] = {}
        self._handles = 0
        self._lock = threading.RLock()
        self.real: dict[str, Any] = {name: getattr(os, name) for name in _REPLACED}
        self.real_open = builtins.open

    def resolve(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The path relative to the root, links in its parents followed; `None` when it is elsewhere."""
        text = os.fsdecode(path)
        if dir_fd is not None:
            if dir_fd not in self._places:
                return None
            text = os.path.join(self.root, self._places[dir_fd][0], text)
        parent, name = os.path.split(os.path.abspath(text))
        full = os.path.join(os.path.realpath(parent), name)
        if full == self.root:
            return ""
        return full[len(self.root) + 1 :] if full.startswith(self.root + os.sep) else None

    def opened(self, descriptor: int, path: str, handle: int | None = None) -> None:
        self._places[descriptor] = (path, handle)

    def closed(self, descriptor: int) -> None:
        self._places.pop(descriptor, None)

    def place_of(self, descriptor: int) -> tuple[str, int | None] | None:
        """Path and handle of an open file or directory below the root."""
        return self._places.get(descriptor)

    def handle(self) -> int:
        with self._lock:
            self._handles += 1
            return self._handles

    def operation(
        self, kind: str, path: str, act: Callable[[], Any], details: dict[str, Any] | None = None, half: Callable[[], Any] | None = None
    ) -> Any:
        """Do one operation, or what the fault makes of it. `half` does half of it."""
        with self._lock:
            stroke = self._stroke(kind, path)
            if stroke is not None and stroke.do == "kill":
                if stroke.where == "middle" and half is not None:
                    half()
                if stroke.where == "after":
                    act()
                os.kill(os.getpid(), signal.SIGKILL)
            if stroke is not None and stroke.do == "error":
                if stroke.where == "middle" and half is not None:
                    half()
                raise OSError(stroke.errno, os.strerror(stroke.errno), os.path.join(self.root, path))
            if stroke is not None and stroke.do == "signal":
                os.kill(os.getpid(), stroke.signal)
            if stroke is None or stroke.do != "sleep":
                return self._done(kind, path, act, details)
        time.sleep(stroke.seconds)
        with self._lock:
            return self._done(kind, path, act, details)

    def _done(self, kind: str, path: str, act: Callable[[], Any], details: dict[str, Any] | None) -> Any:
        result = act()
        self.operations.append((kind, path, details or {}))
        return result

    def _stroke(self, kind: str, path: str) -> Fault | None:
        fault = self._fault
        if fault is None:
            return None
        label = label_of(kind, path)
        if fault.label not in ("*", f"{kind} *", label):
            return fault if self._failing and kind in NEEDS_SPACE else None
        self._seen[fault.label] += 1
        due = fault.occurrence in (0, self._seen[fault.label])
        if due:
            self.hits += 1
            self._failing = fault.onward
        return fault if due or (self._failing and kind in NEEDS_SPACE) else None

    def is_futile(self, kind: str, path: str) -> bool:
        """Whether an operation fails anyway and changes nothing: it deletes what is not there, or makes what is, or nowhere."""
        full = os.path.join(self.root, path)
        return os.path.lexists(full) != (kind in ("unlink", "rmdir")) or not os.path.exists(os.path.dirname(full))

    def bytes_of(self, data: Any) -> dict[str, Any]:
        """A write's bytes for the log, when they are wanted."""
        return {"data": base64.b64encode(data).decode()} if self._content else {}

    @contextlib.contextmanager
    def installed(self) -> Generator[Shim, None, None]:
        """Take the place of Python's functions while the block runs."""
        builtins.open = io.open = _opener(self)  # type: ignore[assignment]
        for name, function in _functions(self).items():
            setattr(os, name, function)
        fast_copies = getattr(shutil, "_USE_CP_SENDFILE", False)
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]  # copies go through write()
        try:
            yield self
        finally:
            shutil._USE_CP_SENDFILE = fast_copies  # type: ignore[attr-defined]
            builtins.open = io.open = self.real_open
            for name, function in self.real.items():
                setattr(os, name, function)


_REPLACED = ("open", "close", "fsync", "fdatasync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "symlink", "link")


class _Raw(io.FileIO):
    """An unbuffered file whose changes are operations."""

    def __init__(self, shim: Shim, path: Any, place: str, mode: str) -> None:
        self._shim, self._place, self._number = shim, place, shim.handle()
        new = "w" in mode or "x" in mode or not os.path.exists(path)
        shim.operation(
            "create" if new else "open", place, lambda: io.FileIO.__init__(self, path, mode), {"handle": self._number, "empty": "w" in mode}
        )
        shim.opened(self.fileno(), place, self._number)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = os.fstat(self.fileno()).st_size if "a" in self.mode else self.tell()
        details = {"handle": self._number, "offset": size, "length": len(view), **self._shim.bytes_of(view)}
        half = lambda: io.FileIO.write(self, view[: len(view) // 2])  # noqa: E731
        return self._shim.operation("write", self._place, lambda: io.FileIO.write(self, view), details, half)

    def truncate(self, size: int | None = None) -> int:
        to = self.tell() if size is None else size
        details = {"handle": self._number, "size": to}
        return self._shim.operation("truncate", self._place, lambda: io.FileIO.truncate(self, to), details)

    def close(self) -> None:
        if not self.closed:
            self._shim.closed(self.fileno())
        io.FileIO.close(self)


class _Buffered:
    """A buffered file that is not one of io's own classes: numpy writes to those behind Python's back."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> _Buffered:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._inner.close()

    def __iter__(self) -> Any:
        return iter(self._inner)


def _opener(shim: Shim) -> Callable[..., Any]:
    real = shim.real_open

    def open_file(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
                  closefd: bool = True, opener: Any = None) -> Any:  # fmt: skip
        place = None if isinstance(file, int) or opener or not set("wax+") & set(mode) else shim.resolve(file)
        if place is None:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _Raw(shim, file, place, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)  # type: ignore[type-var]
        if "b" in mode:
            return _Buffered(buffered)
        return io.TextIOWrapper(buffered, io.text_encoding(encoding), errors, newline, line_buffering=buffering == 1)

    return open_file


def _functions(shim: Shim) -> dict[str, Callable[..., Any]]:
    """Our versions of os.* by name."""
    real = shim.real

    def simple(name: str, kind: str, position: int = 0) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            place = shim.resolve(given[position], named.get("dir_fd"))
            if place is None or shim.is_futile(kind, place):
                return real[name](*given, **named)
            extra = {"target": os.fsdecode(given[0])} if kind == "symlink" else {}
            return shim.operation(kind, place, lambda: real[name](*given, **named), extra)

        return call

    def two_paths(name: str, kind: str) -> Callable[..., Any]:
        def call(source: Any, target: Any, **named: Any) -> Any:
            old, new = shim.resolve(source, named.get("src_dir_fd")), shim.resolve(target, named.get("dst_dir_fd"))
            if old is None or new is None:
                return real[name](source, target, **named)
            return shim.operation(kind, new, lambda: real[name](source, target, **named), {"from": old})

        return call

    def open_descriptor(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = shim.resolve(path, dir_fd)
        act = lambda: real["open"](path, flags, mode, dir_fd=dir_fd)  # noqa: E731
        if place is None:
            return act()
        if flags & _WRITING:
            raise NotImplementedError(f"os.open({path!r}) for writing is not watched; teach the shim")
        descriptor = act()
        shim.opened(descriptor, place)
        return descriptor

    def close(descriptor: int) -> None:
        shim.closed(descriptor)
        real["close"](descriptor)

    def sync(descriptor: int) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        found = shim.place_of(number)
        if found is None:
            return real["fsync"](number)
        place, handle = found
        kind = "fsyncdir" if stat.S_ISDIR(os.fstat(number).st_mode) else "fsync"
        return shim.operation(kind, place, lambda: None, {"handle": handle})

    functions = {
        name: simple(name, kind) for name, kind in (("unlink", "unlink"), ("remove", "unlink"), ("rmdir", "rmdir"), ("mkdir", "mkdir"))
    }
    functions |= {"rename": two_paths("rename", "rename"), "replace": two_paths("replace", "rename"), "link": two_paths("link", "link")}
    functions |= {"symlink": simple("symlink", "symlink", 1), "open": open_descriptor, "close": close, "fsync": sync, "fdatasync": sync}
    return functions
