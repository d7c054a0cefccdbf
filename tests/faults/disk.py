"""A disk that forgets what was not synced. In: the shim's operations, with their bytes. Out: the tree as it may be after a power cut.

The rules are those of POSIX and no kinder: a file's bytes last once the file was synced, a directory's entries last once that
directory was synced, and anything later may be there, may be missing, or (a write) may be there in part. A rename inside one
directory is done or not done, never half.
"""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

Change = list[tuple[str, "Node | None"]]
"""Entries set (or, with `None`, removed) together."""


@dataclass
class File:
    """Bytes; `pending` are writes (offset, bytes) and truncations (size, None) since the last sync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def after_power_loss(self, chance: random.Random | None) -> bytes:
        content = bytearray(self.durable)
        for offset, data in self.pending if chance else ():
            if data is not None:
                data = data[: chance.choice((0, chance.randint(0, len(data)), len(data)))]
            if data or (data is None and chance.random() < 0.5):
                _apply(content, offset, data)
        return bytes(content)


@dataclass
class Folder:
    """Entries; `pending` are changes since the last sync."""

    durable: dict[str, Node] = field(default_factory=dict)
    now: dict[str, Node] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def change(self, *entries: tuple[str, Node | None]) -> None:
        for name, node in entries:
            _set(self.now, name, node)
        self.pending.append(list(entries))

    def sync(self) -> None:
        self.durable = dict(self.now)
        self.pending.clear()

    def after_power_loss(self, chance: random.Random | None) -> dict[str, Node]:
        entries = dict(self.durable)
        for change in self.pending:
            if chance and chance.random() < 0.5:
                for name, node in change:
                    _set(entries, name, node)
        return entries


@dataclass
class Link:
    """A symbolic link."""

    target: str


Node = File | Folder | Link


class Disk:
    """Takes operations one by one; at any point says what a power cut would leave."""

    def __init__(self) -> None:
        self.root = Folder()
        self._handles: dict[int, File] = {}

    @classmethod
    def of(cls, directory: Path) -> Disk:
        """A disk that holds a tree, all of it synced."""
        disk = cls()
        _read(directory, disk.root)
        return disk

    def apply(self, kind: str, path: str, details: dict[str, Any]) -> None:
        """Do one operation of the shim's log."""
        if kind in ("write", "truncate", "fsync"):
            self._change_file(kind, self._handles[details["handle"]], details)
            return
        if kind == "fsyncdir":
            folder = self._node(path)
            assert isinstance(folder, Folder)
            folder.sync()
            return
        parent, name = self._parent(path)
        if kind in ("create", "open"):
            node = parent.now.get(name)
            if not isinstance(node, File):
                node = File()
                parent.change((name, node))
            elif details["empty"]:
                node.pending.append((0, None))
            self._handles[details["handle"]] = node
        elif kind == "mkdir":
            parent.change((name, Folder()))
        elif kind == "symlink":
            parent.change((name, Link(details["target"])))
        elif kind == "link":
            parent.change((name, self._node(details["from"])))
        elif kind in ("unlink", "rmdir"):
            parent.change((name, None))
        elif kind == "rename":
            self._rename(details["from"], parent, name)
        else:
            raise NotImplementedError(kind)

    def _change_file(self, kind: str, file: File, details: dict[str, Any]) -> None:
        if kind == "fsync":
            file.sync()
        elif kind == "truncate":
            file.pending.append((details["size"], None))
        else:
            file.pending.append((details["offset"], base64.b64decode(details["data"])))

    def _rename(self, source: str, parent: Folder, name: str) -> None:
        old_parent, old_name = self._parent(source)
        node = old_parent.now[old_name]
        if old_parent is parent:
            parent.change((old_name, None), (name, node))
        else:
            parent.change((name, node))
            old_parent.change((old_name, None))

    def _node(self, path: str) -> Node:
        node: Node = self.root
        for part in PurePosixPath(path).parts:
            assert isinstance(node, Folder)
            node = node.now[part]
        return node

    def _parent(self, path: str) -> tuple[Folder, str]:
        place = PurePosixPath(path)
        parent = self._node(str(place.parent))
        assert isinstance(parent, Folder)
        return parent, place.name

    def write_survivors(self, target: Path, chance: random.Random | None) -> None:
        """Write what a power cut now would leave into an empty directory. Without `chance`, all that was not synced is lost."""
        _write(self.root, target, chance, survivors=True)

    def write_all(self, target: Path) -> None:
        """Write the tree as running processes see it."""
        _write(self.root, target, None, survivors=False)


def _write(folder: Folder, target: Path, chance: random.Random | None, *, survivors: bool) -> None:
    entries = folder.after_power_loss(chance) if survivors else folder.now
    for name, node in entries.items():
        path = target / name
        if isinstance(node, Folder):
            path.mkdir()
            _write(node, path, chance, survivors=survivors)
        elif isinstance(node, Link):
            path.symlink_to(node.target)
        elif survivors:
            path.write_bytes(node.after_power_loss(chance))
        else:
            whole = File(bytearray(node.durable), list(node.pending))
            whole.sync()
            path.write_bytes(whole.durable)


def _read(directory: Path, folder: Folder) -> None:
    for path in directory.iterdir():
        if path.is_symlink():
            node: Node = Link(str(path.readlink()))
        elif path.is_dir():
            node = Folder()
            _read(path, node)
        else:
            node = File(bytearray(path.read_bytes()))
        folder.durable[path.name] = folder.now[path.name] = node


def _set(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write at an offset, zeros before it where nothing was; or cut to a size."""
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data
