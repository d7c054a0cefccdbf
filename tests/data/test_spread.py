"""The same documents, wherever they were worked on: in one process, in two, as an array job of three ranks, on a Ray cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from luthier.config.data import DataSection, SourceConfig
from luthier.data import documents, workers
from luthier.data.documents import build_documents
from luthier.data.engine import Spread
from luthier.data.shards import read_texts
from luthier.runs.progress import Progress
from tests.data.corpus import nearly, write_stories

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    some = [write_stories(folder / f"{name}.jsonl", name, 60) for name in ("a", "b", "c", "d")]
    copies = [*some[0][:5], *(nearly(text, number) for number, text in enumerate(some[1][:5]))]
    (folder / "copies.txt").write_text(some[2][0])
    (folder / "more.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in copies))
    return folder


def section(folder: Path) -> DataSection:
    sources = (SourceConfig(path=str(folder), name="stories", date="{date}"),)
    return DataSection(sources=sources, shard_bytes=40_000, validation_share=0.1, test_share=0.1)


def build(folder: Path, to: Path, spread: Spread | None = None) -> dict[str, Any]:
    return build_documents(section(folder), 7, to, to.parent / "cache", Progress(), spread)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_one_process_two_and_renamed_files_in_another_order(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = build(folder, tmp_path / "one", Spread(workers=1))
    assert one["sources"][0]["dropped"] == {"duplicate": 6, "near_duplicate": 5}
    assert len(one["splits"]["train"]["shards"]) > 2 and list(one["splits"]) == ["train", "validation", "test"]
    monkeypatch.setattr(workers, "WORTH_WORKERS", 0)
    assert build(folder, tmp_path / "two", Spread(workers=2)) == one
    assert content(tmp_path / "two") == content(tmp_path / "one")
    renamed = tmp_path / "elsewhere"
    shutil.copytree(folder, renamed)
    for number, path in enumerate(sorted(renamed.iterdir(), reverse=True)):
        path.rename(renamed / f"{number}{path.suffix}")
    three = build(renamed, tmp_path / "three", Spread(workers=1))
    assert three["fingerprint"] == one["fingerprint"] and three["sources"] == one["sources"]


def test_an_array_job_of_three_ranks(folder: Path, tmp_path: Path) -> None:
    """Three processes that share a folder; the last is started late, and one is run a second time."""
    one = build(folder, tmp_path / "one", Spread(workers=1))
    recipe = tmp_path / "recipe.toml"
    chosen = section(folder)
    settings = [f"{name} = {getattr(chosen, name)}" for name in ("shard_bytes", "validation_share", "test_share")]
    source = [f'path = "{folder}"', 'name = "stories"', 'date = "{date}"']
    recipe.write_text("\n".join(["[run]", "seed = 7", "[data]", *settings, "[[data.sources]]", *source]))

    def command(rank: str) -> list[str]:
        where = ["--rank", rank, "--world", "3", "--workspace", str(tmp_path / "work"), "--workers", "1", "--json"]
        return [sys.executable, "-m", "luthier", "data", str(recipe), f"runs.root={tmp_path / 'runs'}", *where]

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ranks = [subprocess.Popen(command(rank), env=environment, stdout=subprocess.PIPE, text=True) for rank in ("0", "1")]
    late = subprocess.run(command("2"), env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=100)
    said = [process.communicate(timeout=100)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert said[1] == late.stdout == ""
    manifest = json.loads(said[0])
    assert manifest["fingerprint"] == one["fingerprint"]
    assert manifest["sources"] == one["sources"]
    assert len(list((tmp_path / "work" / "ranks").iterdir())) == 3
    again = subprocess.run(command("1"), env=environment, capture_output=True, text=True, check=True, timeout=100)
    assert "nothing to do" in again.stderr


def test_a_killed_rank_can_be_started_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = build(folder, tmp_path / "one", Spread(workers=1))
    work = tmp_path / "work"
    real = documents.find_clusters

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def rank(number: int) -> dict[str, Any]:
        return build(folder, tmp_path / "out", Spread(1, rank=number, world=2, workspace=work))

    other = threading.Thread(target=rank, args=(1,))
    other.start()
    found = rank(0)
    other.join(60)
    assert found["fingerprint"] == one["fingerprint"]
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(documents, "find_clusters", killed)
    with pytest.raises(KeyboardInterrupt):
        rank(0)
    monkeypatch.setattr(documents, "find_clusters", real)
    assert rank(0)["fingerprint"] == one["fingerprint"], "the other's work is still there"
    assert list(read_texts(tmp_path / "out", "train")) == list(read_texts(tmp_path / "one", "train"))


def test_a_ray_cluster_of_two_workers(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    one = build(folder, tmp_path / "one", Spread(workers=1))
    code = (
        "import sys, ray\nfrom pathlib import Path\n"
        "from tests.data.test_spread import build\nfrom luthier.data.engine import Spread\n"
        "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        "folder, to = map(Path, sys.argv[1:])\n"
        "print(build(folder, to, Spread(engine='ray', workspace=to / 'parts'))['fingerprint'])\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "ray")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == one["fingerprint"]
