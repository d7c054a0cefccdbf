"""Datasets on a Hugging Face hub. In: a name and a commit. Out: its files in the cache, each checked by its hash. Next: units.

Source: the hub's HTTP interface, https://huggingface.co/docs/hub/api: `/api/datasets/NAME/revision/REVISION?blobs=true` lists files with
their hashes, `/datasets/NAME/resolve/COMMIT/FILE` gives one, by way of a redirect where it is large.
"""

from __future__ import annotations

import fnmatch
import os
import re
import urllib.parse
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from luthier.config.data import SourceConfig
from luthier.data.reading.downloads import Patience, Wanted, ask, client
from luthier.data.reading.fetching import fetch_all
from luthier.data.reading.formats import kind_of
from luthier.data.reading.listing import Found
from luthier.data.report import SourceReport
from luthier.errors import DataError
from luthier.runs.files import make_directory, read_json, write_json
from luthier.runs.progress import Progress

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = re.compile(r"[0-9a-f]{7,39}")
_DESCRIPTIONS = frozenset(("readme.md", "dataset_infos.json", "dataset_info.json", "license.txt", "license.md"))


class _File(NamedTuple):
    """A file of a dataset, as the hub lists it."""

    name: str
    size: int
    algorithm: str
    digest: str


def fetch_dataset(
    source: SourceConfig, cache: Path, report: SourceReport, progress: Progress, patience: Patience | None = None
) -> list[Found]:
    """Fetch the files of a dataset that a source asks for, sorted by name; the hub is asked only for what is not in the cache.

    Raises: DataError when there is no such dataset, revision or file, or one is not what its hash says. StorageError
    """
    patience = patience or Patience()
    name, folder = str(source.dataset), cache / "hub" / str(source.dataset).replace("/", "--")
    commit, files = _listing(name, str(source.revision), folder, patience)
    chosen = _chosen(name, files, source.files, report)
    base = f"{_endpoint()}/datasets/{name}/resolve/{commit}/"
    wanted = [
        Wanted(
            f"{name}: {file.name}",
            base + urllib.parse.quote(file.name),
            folder / f"{file.algorithm}-{file.digest}",
            file.size,
            file.algorithm,
            file.digest,
            _token(),
        )
        for file in chosen
    ]
    facts = fetch_all(source.label, wanted, cache, progress, patience)
    return [
        Found(file.name, str(one.path), file.size, asked=bool(source.files), digest=known["sha256"])
        for file, one, known in zip(chosen, wanted, facts, strict=True)
    ]


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _token() -> str | None:
    return os.environ.get("HF_TOKEN", "").strip() or None


def _listing(name: str, revision: str, folder: Path, patience: Patience) -> tuple[str, list[_File]]:
    """The commit and its files; a commit's never change, so they are kept."""
    path = folder / f"{revision}.json"
    if _COMMIT.fullmatch(revision) and (known := _parsed(read_json(path))) is not None:
        return known
    url = f"{_endpoint()}/api/datasets/{name}/revision/{urllib.parse.quote(revision, safe='')}?blobs=true"
    with client(patience) as http:
        answer = ask(http, f"{name} at {revision}", url, _token(), patience)
    found = _parsed(answer)
    if found is None:
        raise DataError(f"{name}: the hub's answer does not list files with their hashes: {url}", fix="check HF_ENDPOINT")
    commit = found[0]
    if commit != revision and not (_PREFIX.fullmatch(revision) and commit.startswith(revision)):
        raise DataError(
            f"{name}: `revision` must be a commit, {revision!r} is a branch or a tag and can move", fix=f'now it is revision="{commit}"'
        )
    make_directory(folder)
    write_json(folder / f"{commit}.json", {"sha": commit, "siblings": answer["siblings"]})
    return found


def _parsed(answer: Any) -> tuple[str, list[_File]] | None:
    """Read the hub's list of files; `None` for anything else."""
    try:
        files: list[_File] = []
        for entry in cast(list[dict[str, Any]], answer["siblings"]):
            large = entry.get("lfs")
            digest = (large.get("sha256") or str(large.get("oid", "")).removeprefix("sha256:")) if large else entry["blobId"]
            if not re.fullmatch(r"[0-9a-f]{64}" if large else r"[0-9a-f]{40}", digest):
                return None
            size = int(large["size"] if large and "size" in large else entry["size"])
            files.append(_File(str(entry["rfilename"]), size, "sha256" if large else "git", digest))
        commit = str(answer["sha"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return (commit, sorted(files)) if _COMMIT.fullmatch(commit) else None


def _chosen(dataset: str, files: list[_File], patterns: tuple[str, ...], report: SourceReport) -> list[_File]:
    """The files that match a pattern, or without patterns those of a known type that do not describe the dataset."""
    if patterns:
        chosen = [file for file in files if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns)]
    else:
        told = [file for file in files if not _describes(file.name)]
        chosen = [file for file in told if kind_of(file.name)[0] is not None]
        report.dropped.update({"unknown_type": len(told) - len(chosen)} if len(chosen) < len(told) else {})
    if not chosen:
        names = ", ".join(file.name for file in files[:8]) + (", ..." if len(files) > 8 else "")
        what = f"matches {', '.join(patterns)}" if patterns else "is of a known type"
        raise DataError(f"{dataset}: no file {what}", fix=f"its files are {names or 'none'}; name some with `files`")
    return chosen


def _describes(name: str) -> bool:
    path = PurePosixPath(name)
    return any(part.startswith(".") for part in path.parts) or path.name.lower() in _DESCRIPTIONS
