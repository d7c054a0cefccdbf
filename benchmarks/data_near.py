"""Near-duplicates among documents in memory: ours and the peers, and which planted pairs each finds.

The documents are those of `--text`, or generated ones; behind them stand copies, some exact, some with words replaced, whose true Jaccard
similarity is computed here. All take 14 bands of 8 hashes over word 5-grams. The peers come from PyPI into an environment of their own.
datatrove takes the first `--few` documents only, as it needs minutes for all; its speed counts by its own bytes. A peer that does not
install or does not run is left out and said so. text-dedup is not asked: 0.4.1 needs Python 3.12, and 0.4.0 pins a urllib3 that datatrove's
packages exclude.

    python benchmarks/data_near.py [--text FILE_OR_FOLDER] [--documents 25500] [--few 2500] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from luthier.config.data import SourceConfig
from luthier.data.near.signatures import shingle_sets
from luthier.data.near.words import words
from luthier.data.parquet import RowFile, Texts
from luthier.data.reading.sources import read_source
from luthier.data.report import SourceReport
from luthier.data.rules.clean import clean_text, cut_text
from luthier.runs.progress import Progress, progress_for

ROOT = Path(__file__).resolve().parent
PACKAGES = ("numpy", "pyarrow", "rensa", "datasketch", "gaoya", "datatrove[processing,io]", "spacy")
COPIES, MOST_CHARS, NGRAM, THRESHOLD = 0.12, 20_000, 5, 0.8
MOST_LOST = 50
GOALS = {"rensa": 6.0, "datasketch": 12.0, "datatrove": 100.0}
SLOW_SECONDS = 15.0
CLASSES = ("exact", "0.9 and above", "0.8 to 0.9", "below 0.8")
RECALL_GOALS = {"exact": 1.0, "0.9 and above": 1.0, "0.8 to 0.9": 0.97}


class Planted(NamedTuple):
    """A document and its copy."""

    first: int
    second: int
    similarity: float

    @property
    def kind(self) -> str:
        """Its class."""
        return CLASSES[0 if self.similarity == 1 else 1 if self.similarity >= 0.9 else 2 if self.similarity >= 0.8 else 3]


def cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "luthier" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def peers_python() -> Path:
    """The interpreter of an environment that has those peers that install."""
    folder = cache_folder() / f"near-peers-{hashlib.sha256(repr((PACKAGES, sys.version_info[:2])).encode()).hexdigest()[:8]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        for package in PACKAGES:
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package], check=False, stdout=sys.stderr
            )
        (folder / "complete").touch()
    return python


def read_documents(path: str) -> Iterator[str]:
    source = SourceConfig(path=path)
    for record in read_source(source, cache_folder(), SourceReport(source.label)):
        if text := record.get("text"):
            yield from cut_text(clean_text(str(text)), MOST_CHARS)


def generated_documents() -> Iterator[str]:
    """Documents of words that are as unequally frequent as in a language."""
    chance = random.Random(1)
    vocabulary = ["".join(chance.choices("etaoinshrdlucmfw", k=chance.randint(1, 10))) for _ in range(30_000)]
    weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(vocabulary))))
    while True:
        yield " ".join(chance.choices(vocabulary, cum_weights=weights, k=int(chance.lognormvariate(6.0, 0.8)) + 20))


def true_similarity(one: str, other: str) -> float:
    """Jaccard similarity of the sets of word 5-grams, as tuples."""
    sets = []
    for text in (one, other):
        found = words(text)
        sets.append({tuple(found[start : start + NGRAM]) for start in range(max(1, len(found) - NGRAM + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def plant(documents: Iterator[str], count: int) -> tuple[list[str], list[Planted]]:
    """Take documents and put copies of some among them, in a random order."""
    chance = random.Random(2)
    texts = list(itertools.islice(dict.fromkeys(documents_of(documents, round(count * (1 - COPIES)))), count))
    originals = [number for number in chance.sample(range(len(texts)), len(texts)) if texts[number].count(" ") >= 50]
    pairs: list[tuple[int, int]] = []
    for number in originals[: count - len(texts)]:
        parts = texts[number].split(" ")
        share = chance.choice((0.0, 0.0, 0.003, 0.01, 0.02, 0.03))
        changed = [f"{part[:1]}q{chance.randrange(10**5)}" if chance.random() < share else part for part in parts]
        pairs.append((number, len(texts)))
        texts.append(" ".join(changed))
    order = chance.sample(range(len(texts)), len(texts))
    places = {old: new for new, old in enumerate(order)}
    planted = [Planted(places[a], places[b], true_similarity(texts[a], texts[b])) for a, b in pairs]
    return [texts[old] for old in order], planted


def documents_of(documents: Iterator[str], count: int) -> Iterator[str]:
    """So many different documents, at most."""
    seen: set[str] = set()
    for document in documents:
        if document not in seen:
            seen.add(document)
            yield document
        if len(seen) >= count:
            return


class Relatives:
    """The documents that are duplicates of a document, or of one of those, and so on; real text has some of its own."""

    def __init__(self, documents: list[str]) -> None:
        encoded = [document.encode("utf-8") for document in documents]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._sets = shingle_sets(Texts(np.frombuffer(b"".join(encoded), np.uint8), ends[:-1], ends[1:]), NGRAM)

    def any_kept(self, pair: Planted, dropped: set[int], count: int) -> bool:
        """Say whether any of the first `count` that is one of them was kept."""
        known, new = {pair.first, pair.second}, [pair.first, pair.second]
        while new:
            found = set(self._alike(new.pop())) - known
            if any(number < count and number not in dropped for number in found):
                return True
            known |= found
            new += sorted(found)
        return False

    def _alike(self, number: int) -> list[int]:
        values, borders = self._sets
        sizes = np.diff(borders)
        mine = np.isin(values, values[borders[number] : borders[number + 1]])
        shared = np.add.reduceat(mine, borders[:-1], dtype=np.int64)
        return np.flatnonzero(shared >= THRESHOLD * (sizes + sizes[number] - shared)).tolist()


class Bench:
    """Runs everybody in turn and keeps all that they gave."""

    def __init__(self, path: Path, few: int, progress: Progress) -> None:
        self._path, self._few, self._progress = path, few, progress
        self._peers = peers_python()
        self.found: dict[tuple[str, int], list[dict[str, Any]]] = {}

    def round(self, number: int) -> None:
        """Do each job once; who failed or is slow is not asked again."""
        jobs = [("ours", 1), ("ours", 2), ("rensa", 2), ("rensa_bulk", 2), ("gaoya", 2), ("datasketch", 1), ("datatrove", 2)]
        for job in jobs:
            if number == 0 or (self.found.get(job) and self.found[job][-1]["seconds"] < SLOW_SECONDS):
                self._measure(*job)

    def _measure(self, who: str, threads: int) -> None:
        python = sys.executable if who == "ours" else str(self._peers)
        command = [python, str(ROOT / "near_workers.py"), who, str(self._path), str(threads), *([str(self._few)] * (who == "datatrove"))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT.parent) if who == "ours" else ""}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            self._progress.warn(f"{who} is left out: {done.stderr.strip().splitlines()[-1:]}")
            return
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self._progress.say(f"{who}, {threads} threads: {result['bytes'] / 1e6 / result['seconds']:.1f} MB/s")
        self.found.setdefault((who, threads), []).append(result)

    def speed(self, who: str, threads: int) -> float | None:
        """Median MB/s; `None` for who was left out."""
        results = self.found.get((who, threads))
        return statistics.median(one["bytes"] / 1e6 / one["seconds"] for one in results) if results else None


def row(
    name: str, unit: str, ours: float, peer_name: str | None, peer: float | None, goal: float | None, lower: bool = False
) -> dict[str, Any]:
    """One line of the result; `ratio` above 1 means that ours is better; without a peer the goal is ours' own."""
    ratio = None if not peer or not ours else (peer / ours if lower else ours / peer)
    reached = ours if peer_name is None else ratio
    met = None if goal is None or reached is None else (reached <= goal if lower else reached >= goal)
    return {"name": name, "unit": unit, "ours": ours, "peer_name": peer_name, "peer": peer, "ratio": ratio, "goal": goal, "met": met}


def speed_rows(bench: Bench) -> list[dict[str, Any]]:
    """Ours against each peer, with as many threads as it."""
    rows = []
    fastest = max(("rensa", "rensa_bulk"), key=lambda who: bench.speed(who, 2) or 0)
    for who, peer, threads in (
        ("rensa", fastest, 2),
        ("gaoya", "gaoya", 2),
        ("datasketch", "datasketch", 1),
        ("datatrove", "datatrove", 2),
    ):
        ours, theirs = bench.speed("ours", threads), bench.speed(peer, threads)
        if ours and theirs:
            name = f"documents to kept ones, {'one core' if threads == 1 else 'two cores'}"
            rows.append(row(name, "MB/s", ours, who, theirs, GOALS.get(who)))
    return rows


def recall_rows(bench: Bench, planted: list[Planted], relatives: Relatives) -> list[dict[str, Any]]:
    """Of each class of planted pairs: how many are found, and whether of each a duplicate is left."""
    rows = []
    shares: dict[str, dict[str, tuple[float, int]]] = {}
    lost: dict[str, int] = {}
    for (who, _), results in bench.found.items():
        dropped, count = set(results[-1]["dropped"]), results[-1]["documents"]
        seen = [pair for pair in planted if max(pair.first, pair.second) < count]
        for kind in CLASSES:
            gone = [pair.first in dropped or pair.second in dropped for pair in seen if pair.kind == kind]
            if gone:
                shares.setdefault(kind, {})[who] = sum(gone) / len(gone), len(gone)
        both = [pair for pair in seen if pair.first in dropped and pair.second in dropped]
        lost[who] = sum(not relatives.any_kept(pair, dropped, count) for pair in both[:MOST_LOST])
    for kind, by in shares.items():
        name = f"{'found' if kind in RECALL_GOALS else 'dropped'}, Jaccard {kind}"
        ours, pairs = by["ours"]
        below = kind not in RECALL_GOALS
        rows.append(row(f"{name} ({pairs} pairs)", "share", ours, None, None, 0.0 if below else RECALL_GOALS[kind], below))
        others = [(who, *result) for who, result in by.items() if who != "ours"]
        rows += [row(f"{name} (peer: {count} pairs)", "share", ours, who, share, None, below) for who, share, count in others]
    name = "pairs of which no duplicate is left"
    rows.append(row(name, "pairs", lost["ours"], None, None, 0, True))
    rows += [row(name, "pairs", lost["ours"], who, count, None, True) for who, count in lost.items() if who != "ours"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a file or a folder that a recipe could name as a source")
    parser.add_argument("--documents", type=int, default=25_500)
    parser.add_argument("--few", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    progress = progress_for()
    documents, planted = plant(read_documents(arguments.text) if arguments.text else generated_documents(), arguments.documents)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as temporary:
        path = Path(temporary) / "documents.parquet"
        with RowFile(path, {"text": "string"}) as file:
            for document in documents:
                file.write((document,), len(document))
        progress.say(f"{len(documents)} documents, {file.size / 1e6:.1f} million characters, {len(planted)} planted pairs")
        bench = Bench(path, arguments.few, progress)
        for number in range(arguments.rounds):
            bench.round(number)
    rows = speed_rows(bench) + recall_rows(bench, planted, Relatives(documents))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for line in rows:
        peer = "" if line["peer_name"] is None else f"{line['peer_name']} {line['peer']:.3f}"
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f} x"
        met = "" if line["met"] is None else f"goal {line['goal']:g}: {'met' if line['met'] else 'NOT MET'}"
        print(f"{line['name']:<50}{line['ours']:>9.3f} {line['unit']:<6}{peer:<26}{ratio:<12}{met}")


if __name__ == "__main__":
    main()
