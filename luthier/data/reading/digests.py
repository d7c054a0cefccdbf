"""Hashes of contents, each made once. In: files. Out: SHA-256, remembered by place, size and time. Next: units."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, cast

from luthier.data.reading.formats import printable
from luthier.data.reading.listing import Found, open_place
from luthier.data.reading.remote import is_address
from luthier.runs.files import make_directory, read_json, sha256_file, write_json

_SETTLED_SECONDS = 2.0
_CHUNK = 2**22


class Digests:
    """Hashes of files, kept in the cache between calls."""

    def __init__(self, cache: Path) -> None:
        self._path = cache / "fingerprints.json"
        loaded = read_json(self._path)
        self._memo: dict[str, Any] = cast(dict[str, Any], loaded) if isinstance(loaded, dict) else {}
        self._before = json.dumps(self._memo)

    def of(self, file: Found) -> str:
        """The hash of a file's content: the store's own where it has one."""
        if file.digest:
            return file.digest
        return self._of_remote(file) if is_address(file.place) else self.of_path(Path(file.place))

    def of_path(self, path: Path) -> str:
        """SHA-256 of a local file."""
        key = printable(str(path.absolute()))
        status = path.stat()
        known = self._known(key, status.st_size, status.st_mtime_ns)
        if known is None:
            known = sha256_file(path)
            # A file written this very moment may change again within its time stamp's resolution.
            if time.time() - status.st_mtime > _SETTLED_SECONDS:
                self._memo[key] = [status.st_size, status.st_mtime_ns, known]
            else:
                self._memo.pop(key, None)
        return known

    def _of_remote(self, file: Found) -> str:
        stamp = file.stamp if file.stamp.strip(":") else None
        known = self._known(file.place, file.size, stamp) if stamp else None
        if known is None:
            digest = hashlib.sha256()
            with open_place(file.place) as opened:
                while chunk := opened.read(_CHUNK):
                    digest.update(chunk)
            known = digest.hexdigest()
            if stamp:
                self._memo[file.place] = [file.size, stamp, known]
        return known

    def _known(self, key: str, size: int, stamp: Any) -> str | None:
        entry = self._memo.get(key)
        if isinstance(entry, list) and entry[:2] == [size, stamp]:
            return str(cast(list[Any], entry)[2])
        return None

    def save(self) -> None:
        """Write what was learnt, for the next call."""
        if json.dumps(self._memo) != self._before:
            make_directory(self._path.parent)
            write_json(self._path, self._memo)
            self._before = json.dumps(self._memo)
