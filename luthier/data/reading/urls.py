"""Files at web addresses. In: addresses. Out: files in the cache. Next: units.

A file that was fetched is used as it is, so that the same command gives the same documents; remove it from the cache to fetch it anew.
"""

from __future__ import annotations

import hashlib
import urllib.parse
from pathlib import Path, PurePosixPath

from luthier.config.data import SourceConfig
from luthier.data.reading.downloads import Patience, Wanted
from luthier.data.reading.fetching import fetch_all
from luthier.data.reading.formats import kind_of, printable
from luthier.data.reading.listing import Found
from luthier.errors import DataError
from luthier.runs.progress import Progress

_SUFFIXES = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/json": ".json",
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/zip": ".zip",
    "application/x-tar": ".tar",
    "application/vnd.apache.parquet": ".parquet",
}


def fetch_urls(source: SourceConfig, cache: Path, progress: Progress, patience: Patience | None = None) -> list[Found]:
    """Fetch a source's addresses, in their order.

    Raises: DataError when one cannot be had, or is not the file that is pinned. StorageError
    """
    wanted = [_wanted(url, source.sha256, cache) for url in source.urls]
    facts = fetch_all(source.label, wanted, cache, progress, patience or Patience())
    return [
        Found(_name(one.url, str(known.get("content_type") or "")), str(one.path), known["size"], asked=True, digest=known["sha256"])
        for one, known in zip(wanted, facts, strict=True)
    ]


def _wanted(url: str, sha256: str | None, cache: Path) -> Wanted:
    if not url.startswith(("http://", "https://")):
        fix = f'for other addresses: data.sources=[{{path="{url}"}}]' if "://" in url else f"write https://{url}"
        raise DataError(f"{url}: an address must begin with http:// or https://", fix=fix)
    place = hashlib.sha256(f"{url}\n{sha256 or ''}".encode()).hexdigest()[:32]
    return Wanted(url, url, cache / "urls" / place, algorithm="sha256" if sha256 else None, digest=sha256)


def _name(url: str, content_type: str) -> str:
    """The file's name in an address, with a suffix by its type where it has none that is known."""
    parts = urllib.parse.urlsplit(url)
    name = printable(PurePosixPath(urllib.parse.unquote(parts.path)).name or parts.netloc)
    if kind_of(name)[0] is None:
        name += _SUFFIXES.get(content_type.partition(";")[0].strip().lower(), "")
    return name
