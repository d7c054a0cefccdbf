from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from luthier.config.data import SourceConfig
from luthier.data.reading import digests
from luthier.data.reading.sources import source_fingerprint
from luthier.errors import DataError


def _print(path: Path, cache: Path) -> str:
    return source_fingerprint(SourceConfig(path=str(path)), cache)


def test_the_fingerprint_is_of_contents_wherever_they_lie(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x.txt").write_text("one")
    first = _print(folder, cache)
    assert _print(folder, cache) == first
    shutil.copytree(folder, tmp_path / "moved")
    assert _print(tmp_path / "moved", cache) == first
    (folder / "x.txt").write_text("two")
    second = _print(folder, cache)
    assert second != first
    (folder / "x.txt").rename(folder / "y.txt")
    assert _print(folder, cache) == second


def test_the_fingerprint_is_of_names_where_texts_get_their_titles_from_them(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("one")
    first = source_fingerprint(SourceConfig(path=str(path), text="{title}: {text}"), cache)
    path.rename(tmp_path / "y.txt")
    assert source_fingerprint(SourceConfig(path=str(tmp_path / "y.txt"), text="{title}: {text}"), cache) != first


def test_settled_files_are_hashed_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    path.write_text("one")
    os.utime(path, (1_000_000, 1_000_000))
    first = _print(path, cache)
    monkeypatch.setattr(digests, "sha256_file", lambda path: pytest.fail("hashed again"))
    assert _print(path, cache) == first


def test_files_with_names_that_are_not_utf8_are_read(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    try:
        (folder / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert len(_print(folder, cache)) == 64


def test_a_loop_of_links_ends(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "loop"
    folder.mkdir()
    (folder / "x.txt").write_text("text")
    (folder / "again").symlink_to(folder)
    assert len(_print(folder, cache)) == 64


def test_a_missing_path_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        _print(tmp_path / "nowhere" / "x", cache)
    with pytest.raises(DataError, match="not a path"):
        source_fingerprint(SourceConfig(path="nul\0byte"), cache)
