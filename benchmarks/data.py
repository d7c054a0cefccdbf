"""The whole chain of documents: read, clean, filter, deduplicate, split, write. How fast, in how much memory, and how exact.

Speed is that of the folder `--text` as it is, by all four sets of rules, in bytes of its records' texts. Memory and counts are those of
`--size` bytes made of what the chain keeps of that folder, repeated: exact copies, with blanks at their lines' ends, and, of texts of
400 words and more, copies with a word replaced. So exactly as many documents must be kept as were kept before, and as many duplicates
found as were planted. Each run is a process of its own; memory is the largest sum of what it and its workers hold, pages that they
share counted for each.

    python benchmarks/data.py --text FOLDER [--size 1e9] [--workers 2] [--rounds 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zstandard

from luthier.config.data import DataSection, SourceConfig
from luthier.data.documents import build_documents
from luthier.data.engine import Spread
from luthier.data.reading.sources import read_source
from luthier.data.report import SourceReport
from luthier.data.shards import read_texts
from luthier.runs.progress import Progress, progress_for

RULES = ("c4", "gopher_repetition", "gopher_quality", "fineweb")
GOAL_RATE, GOAL_MEMORY = 25.0, 2.0
FILES, LONG_WORDS = 12, 400


def section(folder: Path) -> DataSection:
    return DataSection.model_validate({"sources": [{"path": str(folder), "name": "texts"}], "filter": {"rules": RULES}})


def child(folder: Path, to: Path, workers: int, shown: bool) -> None:
    """What a measured process does."""
    progress = progress_for() if shown else Progress()
    build_documents(section(folder), 1, to, to.parent / f"{to.name}-cache", progress, Spread(workers))


def measure(folder: Path, to: Path, workers: int) -> tuple[float, float, dict[str, Any]]:
    """Run the chain in a process of its own; give seconds, peak GiB and the manifest."""
    command = [sys.executable, __file__, "--child", str(to), "--text", str(folder), "--workers", str(workers)]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.1)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(process.returncode)
    return seconds, peak / 2**30, json.loads((to / "manifest.json").read_text())


def tree_bytes(process: int) -> int:
    """Bytes that a process and all below it hold."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)
        below = [int(number) for task in Path(f"/proc/{process}/task").iterdir() for number in (task / "children").read_text().split()]
    except OSError:
        return 0
    return own + sum(tree_bytes(number) for number in below)


def text_bytes(folder: Path, cache: Path) -> int:
    """Bytes of the records' texts."""
    source = SourceConfig(path=str(folder))
    return sum(len(str(record.get("text", "")).encode()) for record in read_source(source, cache, SourceReport("texts")))


class Corpus:
    """Texts repeated, in files of JSON lines, and how many of which kind."""

    def __init__(self, texts: list[str], size: float, folder: Path) -> None:
        self.exact = self.near = self.size = 0
        rng = random.Random(1)
        folder.mkdir(parents=True)
        files = [
            zstandard.open(folder / f"{number:02d}.jsonl.zst", "wt", zstandard.ZstdCompressor(1), encoding="utf-8")
            for number in range(FILES)
        ]
        turn = 0
        while self.size < size:
            for text in texts:
                copied = text if turn == 0 else self._copy(text, turn, rng)
                files[rng.randrange(FILES)].write(json.dumps({"text": copied}, ensure_ascii=False) + "\n")
                self.size += len(copied.encode())
                if self.size >= size and turn > 0:
                    break
            turn += 1
        for file in files:
            file.close()

    def _copy(self, text: str, turn: int, rng: random.Random) -> str:
        words = text.split(" ")
        if turn % 2 == 0 or len(words) < LONG_WORDS:
            self.exact += 1
            return text.replace("\n", " " * turn + "\n") + " " * turn
        self.near += 1
        words[rng.randrange(len(words) // 4, len(words) // 2)] = rng.choice(["some", "other", "more", "these"]) + str(turn)
        return " ".join(words)


def row(name: str, unit: str, ours: float, goal: float | None = None, met: bool | None = None) -> dict[str, Any]:
    return {"name": name, "unit": unit, "ours": ours, "peer_name": None, "peer": None, "ratio": None, "goal": goal, "met": met}


def rows(folder: Path, size: float, workers: int, rounds: int, work: Path) -> list[dict[str, Any]]:
    """Measure; the first run, in which kernels are compiled, does not count."""
    megabytes = text_bytes(folder, work / "cache") / 1e6
    runs = [measure(folder, work / f"run{number}", workers) for number in range(rounds + 1)]
    kept = [text for split in runs[0][2]["splits"] for text in read_texts(work / "run0", split)]
    rate = megabytes / statistics.median(seconds for seconds, _, _ in runs[1:])
    same = len({manifest["fingerprint"] for _, _, manifest in runs}) == 1
    found = [
        row(f"the whole chain on {megabytes:.0f} MB, {workers} workers, start to end", "MB/s", rate, GOAL_RATE, rate >= GOAL_RATE),
        row("every run gives the same fingerprint", "share", float(same), 1.0, same),
    ]
    corpus = Corpus(kept, size, work / "made")
    seconds, memory, manifest = measure(work / "made", work / "out", workers)
    (source,) = manifest["sources"]
    dropped = source["dropped"]
    by_rules = sum(count for reason, count in dropped.items() if "." in reason)
    exact = dropped.get("duplicate", 0) / max(1, corpus.exact)
    near = (dropped.get("near_duplicate", 0) + by_rules) / max(1, corpus.near)
    once = source["documents"] / len(kept)
    label = f"{corpus.size / 1e9:.1f} GB of repetitions"
    return [
        *found,
        row(f"{label}: speed", "MB/s", corpus.size / 1e6 / seconds, GOAL_RATE, corpus.size / 1e6 / seconds >= GOAL_RATE),
        row(f"{label}: peak memory of all processes", "GiB", memory, GOAL_MEMORY, memory < GOAL_MEMORY),
        row(f"{label}: exact copies found, of {corpus.exact}", "share", exact, 1.0, exact == 1),
        row(f"{label}: near copies found or ruled out, of {corpus.near}", "share", near, 1.0, near == 1),
        row(f"{label}: near copies that a rule left out", "copies", by_rules),
        row(f"{label}: documents kept, of {len(kept)}", "share", once, 1.0, once == 1),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--size", type=float, default=1e9)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(arguments.text, arguments.child, arguments.workers, sys.stderr.isatty())
        return
    with tempfile.TemporaryDirectory() as folder:
        measured = rows(arguments.text, arguments.size, arguments.workers, arguments.rounds, Path(folder))
    if arguments.json:
        print(json.dumps(measured, indent=2))
        return
    for line in measured:
        met = "" if line["met"] is None else f"goal {line['goal']:g}: {'met' if line['met'] else 'NOT MET'}"
        print(f"{line['name']:<78}{line['ours']:>10.3f} {line['unit']:<8}{met}")


if __name__ == "__main__":
    main()
