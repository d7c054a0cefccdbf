"""Archives: what they hold is read, what could do harm is refused and counted (F4, D6)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from luthier.data.report import SourceReport

Read = Callable[..., tuple[list[dict[str, Any]], SourceReport]]

MEMBERS = {
    "a.txt": b"alpha",
    "deep/b.jsonl": b'{"text": "beta"}\n{"text": ',
    "c.jsonl.gz": gzip.compress(b'{"text": "gamma"}\n'),
    "page.html": b"<title>Delta</title><p>delta",
    "empty.txt": b"",
    "photo.png": b"\x89PNG",
    "inner.zip": b"PK\x03\x04",
    ".hidden.txt": b"no",
    "__MACOSX/a.txt": b"no",
    "program.txt": b"\x7fELF\0",
}
TEXTS = ["alpha", "beta", "delta", "gamma"]
DROPPED = {"bad_json": 1, "unknown_type": 2, "hidden_file": 2, "binary_file": 1, "empty_file": 1}


def _zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _tar(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst"])
def test_members_are_read_like_files(tmp_path: Path, read: Read, suffix: str) -> None:
    squeeze = {"gz": gzip.compress, "tgz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    squeeze |= {"zst": zstandard.ZstdCompressor().compress, "tar": bytes, "zip": bytes}
    data = _zip(MEMBERS) if suffix == "zip" else _tar(dict(MEMBERS))
    path = tmp_path / f"all.{suffix}"
    path.write_bytes(squeeze[suffix.rpartition(".")[2]](data))
    records, report = read(path)
    assert sorted(record["text"] for record in records) == TEXTS
    assert {record["title"] for record in records if "title" in record} == {"a", "Delta"}
    assert report.dropped == DROPPED
    assert report.bytes_read == path.stat().st_size
    assert [place.file for place in report.places if place.reason == "bad_json"] == [f"all.{suffix}: deep/b.jsonl"]
    assert [place.offset for place in report.places if place.reason == "bad_json"] == [17]


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt", "\\out.txt"])
@pytest.mark.parametrize("pack", [_zip, _tar])
def test_members_that_lead_out_are_refused(tmp_path: Path, read: Read, name: str, pack: Callable[..., bytes]) -> None:
    """F4."""
    path = tmp_path / f"evil.{'zip' if pack is _zip else 'tar'}"
    path.write_bytes(pack({name: b"evil", "good.txt": b"good"}))
    records, report = read(path)
    assert [record["text"] for record in records] == ["good"]
    assert report.dropped == {"unsafe_member": 1}


def test_links_and_devices_are_refused(tmp_path: Path, read: Read) -> None:
    """F4."""
    links = {"a.txt": _link("a.txt"), "b.txt": _link("b.txt", tarfile.LNKTYPE), "c.txt": _link("c.txt", tarfile.CHRTYPE)}
    (tmp_path / "links.tar").write_bytes(_tar({**links, "good.txt": b"good"}))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("link.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    (tmp_path / "links.zip").write_bytes(file.getvalue())
    records, report = read(tmp_path)
    assert [record["text"] for record in records] == ["good"]
    assert report.dropped == {"link_member": 3, "not_a_file": 1}


def test_nothing_is_written_while_reading(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """F4."""
    (tmp_path / "all.zip").write_bytes(_zip(MEMBERS))
    (tmp_path / "all.tar").write_bytes(_tar(dict(MEMBERS)))
    real, written = io.open, []

    def watched(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+") and "cache" not in str(file):
            written.append(file)
        return real(file, mode, *args, **kwargs)

    monkeypatch.setattr("builtins.open", watched)
    assert len(read(tmp_path)[0]) == 8
    assert written == []


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar.zst"])
def test_bombs_are_stopped(tmp_path: Path, read: Read, suffix: str) -> None:
    """D6."""
    bomb = {"bomb.txt": b"a " * 2**26, "after.txt": b"good"}
    squeeze = {"zip": bytes, "tar.gz": gzip.compress, "tar.zst": zstandard.ZstdCompressor().compress}[suffix]
    (tmp_path / f"bomb.{suffix}").write_bytes(squeeze(_zip(bomb) if suffix == "zip" else _tar(dict(bomb))))
    records, report = read(tmp_path / f"bomb.{suffix}")
    assert report.dropped["decompression_bomb"] == 1
    assert sum(len(record["text"]) for record in records) < 2**27
    assert ("good" in [record["text"] for record in records]) == (suffix == "zip")


def test_overlapping_members_are_a_bomb_together(tmp_path: Path, read: Read) -> None:
    """D6: many entries for the same bytes give more than the archive can hold."""
    data = bytearray(_zip({f"{number}.txt": b"x" * 2**20 for number in range(3)}))
    archive = tmp_path / "f.zip"
    archive.write_bytes(data)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        first = file.infolist()[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.filelist += [first] * 400
        file._didModify = True  # type: ignore[attr-defined]
    records, report = read(archive)
    assert report.dropped["decompression_bomb"] > 0
    assert sum(len(record["text"]) for record in records) <= 2**28


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_damaged_archives_are_counted_with_their_place(tmp_path: Path, read: Read, suffix: str) -> None:
    rows = {f"{number}.txt": random.Random(number).randbytes(9000).hex().encode() for number in range(40)}
    data = _zip(rows) if suffix == "zip" else _tar(dict(rows))
    data = gzip.compress(data) if suffix == "tar.gz" else data
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    (tmp_path / f"empty.{suffix}").write_bytes(b"")
    (tmp_path / f"noise.{suffix}").write_bytes(b"noise" * 1000)
    records, report = read(tmp_path)
    assert (len(records) >= 15) == (suffix != "zip")
    assert sum(report.dropped.values()) >= 3
    assert {place.file.partition(".")[0] for place in report.places} >= {"cut", "noise"}


def test_a_damaged_member_does_not_end_an_archive(tmp_path: Path, read: Read) -> None:
    data = bytearray(_zip({"a.txt": b"alpha" * 1000, "b.txt": b"beta"}))
    data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "f.zip").write_bytes(data)
    records, report = read(tmp_path / "f.zip")
    assert records[-1]["text"] == "beta"
    assert report.dropped == {"corrupt_member": 1}
    assert report.places[0].file == "f.zip: a.txt"


def test_a_huge_head_is_refused_before_it_is_read(tmp_path: Path, read: Read) -> None:
    """D6."""
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**30
    (tmp_path / "f.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2**21)
    assert read(tmp_path / "f.tar")[1].dropped == {"bad_archive": 1}
