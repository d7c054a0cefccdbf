"""A corpus with every fault there is, planted and counted: none is fatal, each is found, and nothing else is."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard

from luthier.config.data import DataSection
from luthier.data.documents import build_documents
from luthier.data.parquet import read_rows
from luthier.data.shards import read_texts
from luthier.runs.progress import Progress
from tests.data.corpus import nearly, story, write_stories

STORIES, EXACT, NEAR, ASKED, BINARY = 700, 200, 200, 20, 50
ROOT = Path(__file__).resolve().parents[2]


def plant(folder: Path) -> None:
    """Write the corpus, and an evaluation set beside it."""
    texts = write_stories(folder / "stories.jsonl", "story", STORIES)
    copies = [text.upper() if number % 2 else f"  {text}\r\n" for number, text in enumerate(texts[:EXACT])]
    write_lines(folder / "copies.jsonl", [{"text": text} for text in copies])
    write_lines(folder / "near.jsonl", [{"text": nearly(text, n)} for n, text in enumerate(texts[EXACT : EXACT + NEAR])])
    questions = [story(f"question {number}", 3) for number in range(ASKED)]
    write_lines(folder.parent / "evaluation.jsonl", [{"question": text, "answer": str(n)} for n, text in enumerate(questions)])
    leaks = [f"{story(f'before {n}', 5)} {text.lower()} {story(f'after {n}', 5)}" for n, text in enumerate(questions)]
    write_lines(folder / "leaks.jsonl", [{"text": text} for text in leaks])
    for number in range(BINARY):
        head = (b"\x7fELF\x02\x01", b"%PDF-1.7\n", b"\x89PNG\r\n", b"some text and then \x00\x01\x02")[number % 4]
        (folder / f"binary{number}.txt").write_bytes(head + bytes([number, 0]) * 300)
    (folder / "broken.txt").write_bytes(story("broken").encode() + b" \xff\xfe\xe2\x82 and so on")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "wide.txt").write_bytes(story("wide").encode("utf-16"))
    (folder / "surrogate.jsonl").write_text('{"text": "\\ud800 ' + story("surrogate") + '"}\nnot json\n')
    whole = zstandard.compress("".join(json.dumps({"text": story(f"cut {n}")}) + "\n" for n in range(400)).encode())
    (folder / "cut.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    with gzip.open(folder / "bomb.txt.gz", "wb", compresslevel=9) as file:
        for _ in range(80):
            file.write(b" " * 2**20)
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.txt", b" " * (80 * 2**20))


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def section(*folders: Path, **settings: Any) -> DataSection:
    evaluation = [str(folders[0].parent / "evaluation.jsonl")]
    chosen: dict[str, Any] = {"validation_share": 0.1, "test_share": 0.05, "shard_bytes": 100_000, "decontaminate": {"sources": evaluation}}
    sources = [{"path": str(folder), "name": f"texts{number}"} for number, folder in enumerate(folders)]
    return DataSection.model_validate({"sources": sources, **chosen, **settings})


def build(config: DataSection, to: Path) -> dict[str, Any]:
    return build_documents(config, 3, to, to.parent / "cache", Progress())


def sides(manifest: dict[str, Any], directory: Path) -> dict[str, str]:
    return {text: split for split in manifest["splits"] for text in read_texts(directory, split)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of texts, and the manifest of the documents in `out` beside it."""
    folder = tmp_path_factory.mktemp("planted") / "texts"
    folder.mkdir()
    plant(folder)
    return folder, build(section(folder), folder.parent / "out")


def test_every_fault_is_counted_and_none_is_fatal(planted: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = planted
    (source,) = manifest["sources"]
    dropped, repaired = Counter(source["dropped"]), source["repaired"]
    assert {reason: dropped.pop(reason) for reason in ("duplicate", "near_duplicate", "contaminated", "binary_file")} == {
        "duplicate": EXACT,
        "near_duplicate": NEAR,
        "contaminated": ASKED,
        "binary_file": BINARY,
    }
    assert source["contaminated"] == ASKED, "each record of the evaluation set is in one document"
    assert dropped.pop("truncated_file") == 1 and dropped.pop("bad_json") == 2, "one line was never JSON, one was cut"
    assert dropped.pop("decompression_bomb") == 2
    assert set(dropped) <= {"empty", "empty_file"}
    assert repaired["invalid_utf8"] >= 1 and repaired["lone_surrogate"] == 1
    texts = sides(manifest, folder.parent / "out")
    cut = sum(text in texts for text in (story(f"cut {n}") for n in range(400)))
    assert 50 < cut < 350, "what a file gave before its end is kept"
    assert len(texts) == source["documents"] == STORIES + cut + 3
    assert story("wide") in texts
    assert {place["reason"] for place in source["places"]} >= {"bad_json", "truncated_file", "invalid_utf8"}
    assert any(place["file"] == "cut.jsonl.zst" and place["offset"] > 0 for place in source["places"])
    assert source["files"] > 0 and source["records"] > STORIES


def test_clusters_name_who_stands_for_whom(planted: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = planted
    rows = list(read_rows(folder.parent / "out" / "clusters.parquet"))
    assert manifest["clusters"]["clusters"] == EXACT + NEAR == len({row["cluster"] for row in rows})
    kept = [row for row in rows if row["verdict"] == "kept"]
    assert len(kept) == EXACT + NEAR and all(row["id"] == row["cluster"] for row in kept)
    assert all(row["cluster"] <= row["id"] for row in rows)


def test_splits_are_unchanged_after_a_source_is_added(planted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = planted
    before = sides(manifest, folder.parent / "out")
    assert Counter(before.values()).keys() == {"train", "validation", "test"}
    write_stories(tmp_path / "more" / "more.jsonl", "more", 300)
    added = build(section(folder, tmp_path / "more"), tmp_path / "out")
    after = sides(added, tmp_path / "out")
    assert len(after) == len(before) + 300
    assert {text: after[text] for text in before} == before


@pytest.mark.parametrize("budget", [{"documents": 200}, {"bytes": 200_000}], ids=lambda budget: next(iter(budget)))
def test_a_budget_is_a_part_of_twice_as_much(planted: tuple[Path, dict[str, Any]], tmp_path: Path, budget: dict[str, int]) -> None:
    folder, manifest = planted
    twice = {name: 2 * value for name, value in budget.items()}
    some, more = (sides(build(section(folder, budget=b), tmp_path / str(n)), tmp_path / str(n)) for n, b in enumerate((budget, twice)))
    everything = sides(manifest, folder.parent / "out")
    assert set(some) < set(more) < set(everything)
    assert all(everything[text] == side for text, side in more.items())
    held_out = [{text for text, side in of.items() if side != "train"} for of in (some, more, everything)]
    assert held_out[0] == held_out[1] == held_out[2]


def test_names_and_order_of_files_do_not_matter(planted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, manifest = planted
    shutil.copy(folder.parent / "evaluation.jsonl", tmp_path)
    for number, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        target = tmp_path / "renamed" / f"deeper{number % 3}" / f"{number:03d}{''.join(path.suffixes)}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    again = build(section(tmp_path / "renamed"), tmp_path / "out")
    assert again["fingerprint"] == manifest["fingerprint"]
    assert again["sources"][0]["dropped"] == manifest["sources"][0]["dropped"]


KILL = """
import os, signal, sys
from pathlib import Path
from luthier.data import chain, documents, shuffle
from tests.data.test_planted_faults import build, section
where, count = sys.argv[1].rpartition(":")[::2]
module, name = {"chain": chain, "documents": documents, "shuffle": shuffle}[where.partition(".")[0]], where.partition(".")[2]
real, calls = getattr(module, name), []
def deadly(*arguments, **named):
    calls.append(1)
    if len(calls) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
setattr(module, name, deadly)
build(section(Path(sys.argv[2])), Path(sys.argv[3]))
"""


def test_killed_in_mid_chain_and_continued(planted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """One directory, killed again and again, ever later; what is left over in the end is what an undisturbed run makes."""
    folder, manifest = planted
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    script = tmp_path / "kill.py"
    script.write_text(KILL)
    places = ["chain.duplicate_key:40", "chain.write_manifest:1", "documents.find_clusters:1", "shuffle.write_manifest:1"]
    for place in [*places, "shuffle.write_manifest:3", "documents._place:2", "documents.write_manifest:1"]:
        command = [sys.executable, str(script), place, str(folder), str(tmp_path / "out")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, f"{place}: {done.stderr}"
        assert not (tmp_path / "out" / "manifest.json").exists()
    assert build(section(folder), tmp_path / "out") == manifest
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {path.name for path in (folder.parent / "out").iterdir()}


@pytest.mark.slow
def test_a_line_of_100_mb(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    write_stories(folder / "stories.jsonl", "story", 100)
    text = " ".join(story(f"line {n}") for n in range(1000))
    with open(folder / "line.txt", "w") as file:
        for number in range(100 * 2**20 // len(text) + 1):
            file.write(f"{text} {number} ")
    write_lines(tmp_path / "evaluation.jsonl", [])
    manifest = build(section(folder), tmp_path / "out")
    (source,) = manifest["sources"]
    assert source["bytes_read"] > 100 * 2**20
    assert source["documents"] > 100 and source["repaired"]["cut_into_parts"] >= 1
    longest = max(len(text) for split in manifest["splits"] for text in read_texts(tmp_path / "out", split))
    assert 50_000 < longest <= 100_000
