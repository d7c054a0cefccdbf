from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.config.data import SourceConfig
from luthier.data.reading import downloads, fetching, hub, urls
from luthier.data.reading.downloads import Patience
from luthier.data.reading.listing import Found
from luthier.data.reading.sources import read_source, source_fingerprint, source_size
from luthier.data.reading.units import read_unit, units
from luthier.data.report import SourceReport
from luthier.errors import DataError, StorageError
from luthier.runs.progress import Progress

from .server import COMMIT, Hub, Request, serve

HASTY = Patience(stall=0.4, tries=3, most=20, pause=0.01, longest=0.05)
LARGE, SMALL = "data/train-0.jsonl", "data/more.csv"
TEXTS = [f"Story {number} of a fox that met a bear at the river." for number in range(20_000)]
FILES = {
    LARGE: b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS),
    SMALL: b"text\nA tale from a table\n",
    "README.md": b"# about this",
    "picture.png": b"\x89PNG",
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(Hub(dict(FILES), large=(LARGE,))) as one:
        monkeypatch.setenv("HF_ENDPOINT", one.address + "/")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(hub, "Patience", lambda: HASTY)
        monkeypatch.setattr(urls, "Patience", lambda: HASTY)
        yield one


def _source(**settings: Any) -> SourceConfig:
    return SourceConfig(**{"kind": "hub", "dataset": "me/tales", "revision": COMMIT, **settings})


def _fetch(source: SourceConfig, cache: Path) -> list[Found]:
    return hub.fetch_dataset(source, cache, SourceReport("x"), Progress(), HASTY)


def _stored(served: Hub) -> list[Request]:
    """The requests for the large file, after the redirect."""
    return [request for request in served.asked(LARGE) if "/store/" in request.path]


def test_a_dataset_is_fetched_checked_and_read(served: Hub, cache: Path) -> None:
    report = SourceReport("x")
    records = list(read_source(_source(), cache, report))
    assert [record["text"] for record in records] == ["A tale from a table", *TEXTS]
    assert report.dropped == {"unknown_type": 1}
    assert report.bytes_read == source_size(_source(), cache) == len(FILES[LARGE]) + len(FILES[SMALL])
    assert {path.parent.relative_to(cache).as_posix() for path in cache.rglob("sha256-*")} == {"hub/me--tales"}
    assert not list(cache.rglob("*.part*"))


def test_what_was_fetched_needs_no_network(served: Hub, cache: Path) -> None:
    first = list(read_source(_source(), cache, SourceReport("x")))
    asked = len(served.requests)
    assert list(read_source(_source(), cache, SourceReport("x"))) == first
    assert len(served.requests) == asked
    source_fingerprint(_source(), cache / "other")
    assert len(served.requests) == asked


def test_units_of_a_dataset_are_named_by_content(served: Hub, cache: Path) -> None:
    source = _source(files=["data/*"])
    found = units(source, cache, SourceReport("x"))
    assert sorted(record["text"] for unit in found for record in read_unit(source, unit, cache, SourceReport("x"))) == sorted(
        ["A tale from a table", *TEXTS]
    )
    (cache / "data").mkdir()
    (cache / "data" / "other.jsonl").write_bytes(FILES[LARGE])
    local = units(SourceConfig(path=str(cache / "data")), cache, SourceReport("x"))
    assert local[0].pieces[0].key in {piece.key for unit in found for piece in unit.pieces}


def test_a_cut_connection_goes_on_where_it_was(served: Hub, cache: Path) -> None:
    served.faults = {LARGE: [("cut", 300_000), ("cut", 200_000)], SMALL: [("cut", 5)]}
    assert [file.name for file in _fetch(_source(), cache)] == [SMALL, LARGE]
    ranges = [int(request.range[6:-1]) for request in _stored(served) if request.range]
    assert len(ranges) == 2 and 0 < ranges[0] <= 300_000 < ranges[1] <= 500_000
    assert sum(1 for _ in read_source(_source(), cache, SourceReport("x"))) == len(TEXTS) + 1


def test_a_server_that_knows_no_ranges_starts_again(served: Hub, cache: Path) -> None:
    served.ranges = False
    served.faults = {LARGE: [("cut", 300_000)]}
    _fetch(_source(), cache)
    assert sum(1 for _ in read_source(_source(), cache, SourceReport("x"))) == len(TEXTS) + 1


def test_a_stall_is_cut_off_and_tried_again(served: Hub, cache: Path) -> None:
    served.faults = {LARGE: [("stall", 1000)], "api": [("status", 503), ("status", 429)], SMALL: [("status", 500)]}
    begin = time.monotonic()
    _fetch(_source(), cache)
    assert 0.4 <= time.monotonic() - begin < 10
    assert sum(1 for _ in read_source(_source(), cache, SourceReport("x"))) == len(TEXTS) + 1


def test_a_server_that_stays_silent_is_given_up(served: Hub, cache: Path) -> None:
    served.faults = {LARGE: [("stall", 0)] * 9}
    with pytest.raises(DataError, match=r"train-0\.jsonl: could not be fetched from .*: no answer for 0\.4 s"):
        _fetch(_source(), cache)
    assert len(_stored(served)) == HASTY.tries


def test_what_an_attempt_left_is_taken_up_by_the_next(served: Hub, cache: Path) -> None:
    served.faults = {LARGE: [("cut", 600_000)] + [("status", 503)] * 3}
    with pytest.raises(DataError, match="503"):
        _fetch(_source(), cache)
    served.requests.clear()
    _fetch(_source(), cache)
    (request,) = _stored(served)
    assert request.range and int(request.range[6:-1]) > 0


@pytest.mark.parametrize("name", [LARGE, SMALL])
def test_a_wrong_hash_is_refused_and_not_used(served: Hub, cache: Path, name: str) -> None:
    served.listed = {name: FILES[name].replace(b"A", b"B").replace(b"Story", b"Storm")}
    with pytest.raises(DataError, match=r"must have (sha256|git hash) \w+, got \w+; the file is not used"):
        _fetch(_source(), cache)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.read_bytes() == FILES[name]]


def test_a_file_of_another_size_is_refused(served: Hub, cache: Path) -> None:
    served.listed = {SMALL: FILES[SMALL] + b"more"}
    with pytest.raises(DataError, match=r"must have|could not be"):
        _fetch(_source(), cache)


def test_an_altered_file_in_the_cache_is_fetched_again(served: Hub, cache: Path) -> None:
    (first,) = _fetch(_source(files=[SMALL]), cache)
    data = bytearray(Path(first.place).read_bytes())
    data[-3] ^= 1
    Path(first.place).write_bytes(data)
    (again,) = _fetch(_source(files=[SMALL]), cache)
    assert Path(again.place).read_bytes() == FILES[SMALL]


def test_a_missing_dataset_says_what_to_check(served: Hub, cache: Path) -> None:
    with pytest.raises(DataError, match="404 Not Found") as raised:
        _fetch(_source(dataset="me/tails"), cache)
    assert "HF_TOKEN" in str(raised.value)
    assert len(served.requests) == 1


def test_a_private_dataset_needs_a_token_which_the_store_never_sees(served: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.private = True
    with pytest.raises(DataError, match=r"401 Unauthorized[^$]*HF_TOKEN"):
        _fetch(_source(), cache)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert len(_fetch(_source(), cache)) == 2
    assert {request.token for request in served.requests if "/store/" in request.path} == {None}
    assert "Bearer hf_secret" in {request.token for request in served.requests}
    assert not [path for path in cache.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]


def test_a_branch_is_refused_with_the_commit_to_write(served: Hub, cache: Path) -> None:
    with pytest.raises(DataError, match=f'"{COMMIT}"'):
        _fetch(_source(revision="main"), cache)
    assert len(_fetch(_source(revision=COMMIT[:8]), cache)) == 2


def test_patterns_choose_files(served: Hub, cache: Path) -> None:
    assert [file.name for file in _fetch(_source(files=["*.csv"]), cache)] == [SMALL]
    with pytest.raises(DataError, match=r"no file matches \*\.zip[^$]*README\.md"):
        _fetch(_source(files=["*.zip"]), cache)


@pytest.mark.parametrize("siblings", [None, [{}], [{"rfilename": "x", "size": 1, "blobId": "../../x"}], "x"])
def test_an_answer_that_is_no_listing_is_refused(served: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, siblings: Any) -> None:
    monkeypatch.setattr(served, "listing", lambda: {"sha": COMMIT, "siblings": siblings})
    with pytest.raises(DataError, match="does not list files"):
        _fetch(_source(), cache)


def test_a_full_disk_is_a_storage_error(served: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads._Download, "_take", full)
    with pytest.raises(StorageError, match="the disk is full"):
        _fetch(_source(files=[SMALL]), cache)


CHILD = """
import sys
from pathlib import Path
from luthier.config.data import SourceConfig
from luthier.data.reading.sources import read_source
from luthier.data.report import SourceReport
source = SourceConfig(kind="hub", dataset="me/tales", revision=sys.argv[1], files=["*.jsonl"])
list(read_source(source, Path(sys.argv[2]), SourceReport("x")))
"""


def test_a_killed_download_goes_on(served: Hub, cache: Path) -> None:
    served.faults = {LARGE: [("slow", 20_000)]}
    child = subprocess.Popen([sys.executable, "-c", CHILD, COMMIT, str(cache)], env={**os.environ})
    part = None
    for _ in range(3000):
        part = next(iter(cache.rglob("*.part")), None)
        if part is not None and part.stat().st_size > 100_000:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert part is not None and 100_000 < part.stat().st_size < len(FILES[LARGE])
    served.requests.clear()
    records = list(read_source(_source(files=["*.jsonl"]), cache, SourceReport("x")))
    assert [record["text"] for record in records] == TEXTS
    (request,) = _stored(served)
    assert request.range and int(request.range[6:-1]) >= 100_000


def _web(served: Hub, name: str, **settings: Any) -> SourceConfig:
    return SourceConfig(kind="url", urls=[f"{served.address}/web/{name}"], **settings)


def test_a_web_file_is_fetched_once_and_its_facts_noted(served: Hub, cache: Path) -> None:
    served.heads["Last-Modified"] = "Sat, 21 Nov 2026 10:00:00 GMT"
    source = _web(served, LARGE)
    first = source_fingerprint(source, cache)
    assert sum(1 for _ in read_source(source, cache, SourceReport("x"))) == len(TEXTS)
    assert len(served.requests) == 1
    (facts,) = [json.loads(path.read_text()) for path in (cache / "urls").glob("*.json")]
    assert facts["etag"] == '"v1"' and facts["last_modified"].startswith("Sat") and len(facts["sha256"]) == 64
    assert source_fingerprint(source, cache) == first


def test_a_web_file_goes_on_only_while_it_is_the_same(served: Hub, cache: Path) -> None:
    served.faults = {LARGE: [("cut", 300_000)] + [("status", 503)] * 3}
    with pytest.raises(DataError):
        source_size(_web(served, LARGE), cache)
    served.files[LARGE] = FILES[LARGE][::-1].replace(b"\n", b"", 1) + b"\n"
    served.heads["ETag"] = '"v2"'
    assert source_size(_web(served, LARGE), cache) == len(served.files[LARGE])
    assert served.asked(LARGE)[-1].condition == '"v1"'
    (path,) = [path for path in (cache / "urls").iterdir() if not path.suffix]
    assert path.read_bytes() == served.files[LARGE]


def test_a_web_file_without_marks_starts_again(served: Hub, cache: Path) -> None:
    served.heads.clear()
    served.faults = {LARGE: [("cut", 300_000)]}
    assert source_size(_web(served, LARGE), cache) == len(FILES[LARGE])
    assert [request.range for request in served.asked(LARGE)] == [None, None]


def test_a_pinned_web_file_is_checked(served: Hub, cache: Path) -> None:
    with pytest.raises(DataError, match="sha256 0000"):
        source_size(_web(served, SMALL, sha256="0" * 64), cache)


def test_a_page_is_known_by_its_type(served: Hub, cache: Path) -> None:
    served.files["page"] = b"<title>Bears</title><p>Bears are large.<p>They sleep in winter."
    served.heads["Content-Type"] = "text/html; charset=utf-8"
    records = list(read_source(_web(served, "page"), cache, SourceReport("x")))
    assert records == [{"title": "Bears", "text": "Bears are large.\n\nThey sleep in winter."}]


@pytest.mark.parametrize("url", ["ftp://x/y", "example.org/x", "s3://a/b"])
def test_other_addresses_are_refused(url: str, cache: Path) -> None:
    with pytest.raises(DataError, match="must begin with http"):
        source_size(SourceConfig(kind="url", urls=[url]), cache)


def test_one_failure_stops_the_other_downloads(served: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_AT_ONCE", 1)
    served.faults = {SMALL: [("status", 404)]}
    with pytest.raises(DataError, match="404"):
        _fetch(_source(), cache)
    assert not list(cache.rglob("sha256-*.json"))
