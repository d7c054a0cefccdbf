"""What a file's name says about how it is read. In: a name. Out: its kind and compression. Next: readers, archives, tables."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from luthier.data.reading.compression import COMPRESSED

TEXT, JSON_LINES, JSON, CSV, HTML, PARQUET, ZIP, TAR = "text", "jsonl", "json", "csv", "html", "parquet", "zip", "tar"
KINDS = {
    ".txt": TEXT,
    ".text": TEXT,
    ".md": TEXT,
    ".markdown": TEXT,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON,
    ".csv": CSV,
    ".tsv": CSV,
    ".parquet": PARQUET,
    ".zip": ZIP,
    ".tar": TAR,
}
_SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
_DRIVE = re.compile(r"^[A-Za-z]:")


def kind_of(name: str) -> tuple[str | None, str]:
    """Say how a file's name is read: (kind or `None`, compression suffix or "")."""
    path = PurePosixPath(name.lower())
    path = path.with_suffix(_SHORT.get(path.suffix, path.suffix))
    compression = path.suffix if path.suffix in COMPRESSED else ""
    return KINDS.get(PurePosixPath(path.stem).suffix if compression else path.suffix), compression


def title_of(name: str) -> str:
    """The title of a text that has none: its file's name without the suffixes."""
    return PurePosixPath(name).name.split(".")[0]


def leads_out(name: str) -> bool:
    """Whether a name would lie outside the folder it is unpacked into."""
    plain = name.replace("\\", "/")
    return plain.startswith("/") or ".." in plain.split("/") or "\0" in name or _DRIVE.match(plain) is not None


def printable(name: str) -> str:
    """Write a name that is not UTF-8 so that it can be hashed and kept in JSON."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
