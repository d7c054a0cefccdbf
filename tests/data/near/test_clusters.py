import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from luthier.config.data import NearSection
from luthier.data.near.clusters import Clusters, find_clusters
from luthier.data.near.parts import DUPLICATE, KEPT, NEAR_DUPLICATE, Part
from luthier.data.parquet import read_rows
from luthier.data.rules.clean import document_id
from luthier.errors import DataError
from tests.data.near.making import changed, story, write_part

SETTINGS = NearSection()


def corpus(seed: int, count: int = 60) -> list[str]:
    """Some stories, each alone, or with exact, slightly changed and more changed copies, in any order."""
    chance = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        text = story(chance, chance.randint(40, 120))
        texts.append(text)
        copies = chance.choice((0, 0, 1, 3))
        for _ in range(copies):
            texts.append(chance.choice((text, text.upper(), changed(text, chance, 1), changed(text, chance, 2), changed(text, chance, 12))))
    chance.shuffle(texts)
    return texts


def split(folder: Path, texts: Sequence[str], parts: int) -> list[Part]:
    folder.mkdir(exist_ok=True)
    return [write_part(folder / f"{index}.parquet", texts[index::parts], f"k{parts}x{index}") for index in range(parts)]


def verdicts(clusters: Clusters, parts: Sequence[Part]) -> dict[str, set[tuple[int, str]]]:
    """For each id: what became of it, and its cluster."""
    found: dict[str, set[tuple[int, str]]] = {}
    for index, part in enumerate(parts):
        mine = clusters.verdicts(index)
        rows = [row["id"] for row in read_rows(part.path, ["id"])]
        assert len(rows) == len(mine.reasons)
        for row, (name, reason) in enumerate(zip(rows, mine.reasons.tolist(), strict=True)):
            found.setdefault(name, set()).add((reason, mine.cluster(row, name)))
    return found


def in_threads(function: Callable[[Any], None], tasks: Sequence[Any]) -> None:
    shuffled = list(tasks)
    random.Random(len(shuffled)).shuffle(shuffled)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(function, shuffled))


def test_exact_and_near_duplicates_leave_the_lowest_hash(tmp_path: Path) -> None:
    text = story(random.Random(1), 100)
    family = [text, text.upper(), changed(text, random.Random(2), 1), text]
    parts = [write_part(tmp_path / "a", [family[0], family[1], "alone"], "a"), write_part(tmp_path / "b", family[2:], "b", source=1)]
    clusters = find_clusters(parts, SETTINGS, tmp_path / "work")
    lowest = min(map(document_id, family))
    found = verdicts(clusters, parts)
    assert found[document_id("alone")] == {(KEPT, document_id("alone"))}
    assert {cluster for name in map(document_id, family) for _, cluster in found[name]} == {lowest}
    kept = [(index, row) for index in (0, 1) for row, reason in enumerate(clusters.verdicts(index).reasons) if reason == KEPT]
    assert len(kept) == 2
    assert (clusters.documents, clusters.clusters) == (5, 1)
    assert clusters.duplicates + clusters.near_duplicates == 3
    assert {reason for reason, _ in found[document_id(family[2])]} <= {KEPT, NEAR_DUPLICATE}


def test_equal_documents_leave_that_of_the_lowest_source(tmp_path: Path) -> None:
    texts = [story(random.Random(seed), 50) for seed in range(5)]
    parts = [write_part(tmp_path / "a", texts, "k", source=1), write_part(tmp_path / "b", texts, "k2", source=0)]
    clusters = find_clusters(parts, SETTINGS, tmp_path / "work")
    assert clusters.verdicts(0).reasons.tolist() == [DUPLICATE] * 5
    assert clusters.verdicts(1).reasons.tolist() == [KEPT] * 5


@pytest.mark.parametrize("seed", range(3))
def test_result_does_not_depend_on_parts_workers_or_memory(tmp_path: Path, seed: int) -> None:
    texts = corpus(seed)
    whole = split(tmp_path / "whole", texts, 1)
    base = find_clusters(whole, SETTINGS, tmp_path / "one")
    expected = verdicts(base, whole)
    base.write(tmp_path / "one.parquet")
    for number, memory in ((3, 2**29), (7, 20_000), (2, 3_000)):
        parts = split(tmp_path / f"in{number}", texts, number)
        random.Random(seed).shuffle(parts)
        limited = SETTINGS.model_copy(update={"memory": memory})
        clusters = find_clusters(parts, limited, tmp_path / f"work{number}", in_threads)
        assert verdicts(clusters, parts) == expected
        clusters.write(tmp_path / "other.parquet")
        assert (tmp_path / "other.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
        if memory < 2**29:
            assert len(list((tmp_path / f"work{number}").glob("*/meet-*"))) > 5


def test_clusters_file_lists_every_member_once(tmp_path: Path) -> None:
    texts = corpus(5)
    parts = split(tmp_path / "in", texts, 3)
    clusters = find_clusters(parts, SETTINGS, tmp_path / "work")
    clusters.write(tmp_path / "clusters.parquet")
    rows = list(read_rows(tmp_path / "clusters.parquet"))
    assert len(rows) == clusters.clusters + clusters.duplicates + clusters.near_duplicates > 50
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["cluster"], []).append(row)
    assert len(groups) == clusters.clusters
    for name, members in groups.items():
        assert len(members) > 1
        assert name == min(member["id"] for member in members)
        assert [member["id"] for member in members if member["verdict"] == "kept"] == [name]


def test_kept_documents_have_no_duplicate_left(tmp_path: Path) -> None:
    texts = corpus(6)
    parts = split(tmp_path / "in", texts, 2)
    clusters = find_clusters(parts, SETTINGS, tmp_path / "work")
    kept = {name for name, found in verdicts(clusters, parts).items() if any(reason == KEPT for reason, _ in found)}
    again = [text for text in dict.fromkeys(texts) if document_id(text) in kept]
    second = split(tmp_path / "again", again, 1)
    assert len(again) < len(texts)
    assert find_clusters(second, SETTINGS, tmp_path / "work2").clusters == 0


def test_exact_alone_and_near_alone(tmp_path: Path) -> None:
    text = story(random.Random(3), 100)
    parts = [write_part(tmp_path / "a", [text, text, changed(text, random.Random(4), 1)], "a")]
    off = SETTINGS.model_copy(update={"enabled": False})
    only_exact = find_clusters(parts, off, tmp_path / "work")
    assert (only_exact.clusters, only_exact.duplicates, only_exact.near_duplicates) == (1, 1, 0)
    only_near = find_clusters(parts, SETTINGS, tmp_path / "work", exact=False)
    assert (only_near.clusters, only_near.duplicates, only_near.near_duplicates) == (1, 0, 2)
    neither = find_clusters(parts, off, tmp_path / "work", exact=False)
    assert (neither.documents, neither.clusters) == (3, 0)


def test_threshold_0_takes_every_meeting_and_1_only_equal_sets(tmp_path: Path) -> None:
    text = story(random.Random(3), 100)
    parts = [write_part(tmp_path / "a", [text, text.replace(" ", ", "), changed(text, random.Random(4), 1)], "a")]
    found = [find_clusters(parts, SETTINGS.model_copy(update={"threshold": share}), tmp_path / "work") for share in (0.0, 1.0)]
    assert [clusters.near_duplicates for clusters in found] == [2, 1]


def test_a_killed_run_is_taken_up(tmp_path: Path) -> None:
    parts = split(tmp_path / "in", corpus(7), 3)
    expected = verdicts(find_clusters(parts, SETTINGS, tmp_path / "whole"), parts)
    attempts = 0
    while True:
        left = attempts = attempts + 1

        def dying(function: Callable[[Any], None], tasks: Sequence[Any]) -> None:
            nonlocal left
            for task in tasks:
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                function(task)

        try:
            clusters = find_clusters(parts, SETTINGS, tmp_path / "work", dying)
        except KeyboardInterrupt:
            continue
        break
    assert attempts > 10
    assert verdicts(clusters, parts) == expected


def test_an_added_part_signs_only_itself(tmp_path: Path) -> None:
    parts = split(tmp_path / "in", corpus(8), 2)
    find_clusters(parts, SETTINGS, tmp_path / "work")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "signatures").iterdir()}
    more = [write_part(tmp_path / "more", ["a new one " * 30], "new"), *parts]
    clusters = find_clusters(more, SETTINGS, tmp_path / "work")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "signatures").iterdir()}
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 3
    assert clusters.verdicts(0).reasons.tolist() == [KEPT]


def test_no_parts_and_empty_parts(tmp_path: Path) -> None:
    assert find_clusters([], SETTINGS, tmp_path / "work").documents == 0
    parts = [write_part(tmp_path / "a", [], "a"), write_part(tmp_path / "b", ["one", "two"], "b")]
    clusters = find_clusters(parts, SETTINGS, tmp_path / "work")
    assert clusters.verdicts(0).reasons.tolist() == []
    assert clusters.verdicts(1).reasons.tolist() == [KEPT, KEPT]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    part = write_part(tmp_path / "a.parquet", ["one", "two"], "a")
    data = part.path.read_bytes()
    part.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.parquet: not a readable document shard"):
        find_clusters([part], SETTINGS, tmp_path / "work")
