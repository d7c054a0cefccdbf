"""Rows of training: us against `tokenizers`, rustbpe and bpeasy. In: a folder of shards. Out: rows."""

from __future__ import annotations

from typing import Any

from measuring import Bench, row

PEERS = ("tokenizers", "rustbpe", "bpeasy")
GOALS = {"tokenizers": 6.0, "rustbpe": 2.0}
SAME_MERGES = ("rustbpe", "bpeasy")
MEMORY_GOAL = 300e6
COMPRESSION_GOAL = 0.999


def training_rows(bench: Bench, size: int) -> list[dict[str, Any]]:
    """Document shards to merges on one thread, ours on two as well, memory, compression."""
    found = bench.run([("train", who, 1) for who in ("ours", *PEERS, "ours from Parquet", "ours readable")] + [("train", "ours", 2)])
    ours, readable = found["train", "ours", 1], found["train", "ours readable", 1]
    rows: list[dict[str, Any]] = []
    for who in PEERS:
        peer = found["train", who, 1]
        same = peer["sha256"] == ours["sha256"]
        told = "same entries" if same else ("OTHER ENTRIES" if who in SAME_MERGES else "ties decided otherwise")
        ratio = peer["seconds"] / ours["seconds"]
        rows.append(row(f"training, one thread ({told})", "s", ours["seconds"], who, peer["seconds"], ratio, GOALS.get(who)))
    slow = found["train", "tokenizers", 1]["seconds"]
    same = "" if readable["sha256"] == ours["sha256"] else " (OTHER ENTRIES)"
    rows.append(row(f"training by the readable code{same}", "s", readable["seconds"], "tokenizers", slow, slow / readable["seconds"], 1.0))
    for name, job in (("from Parquet, no strings", ("train", "ours from Parquet", 1)), ("two threads", ("train", "ours", 2))):
        same = "" if found[job]["sha256"] == ours["sha256"] else " (OTHER ENTRIES)"
        seconds = found[job]["seconds"]
        rows.append(row(f"training, {name}{same}", "s", seconds, "ours", ours["seconds"], ours["seconds"] / seconds, None))
    memory = found["train", "ours from Parquet", 1]["memory"]
    rows.append(
        row("peak memory, from Parquet as the stage does it", "MB", memory / 1e6, None, MEMORY_GOAL / 1e6, MEMORY_GOAL / memory, 1.0)
    )
    for who in PEERS:
        peer = found["train", who, 1]["memory"]
        rows.append(row("peak memory, given strings", "MB", ours["memory"] / 1e6, who, peer / 1e6, peer / ours["memory"], None))
    mine, theirs = ours["bytes_per_token"], found["train", "tokenizers", 1]["bytes_per_token"]
    rows.append(row("bytes per token", "B", mine, "tokenizers", theirs, mine / theirs, COMPRESSION_GOAL))
    rows.append(row("speed", "MB/s", size / 1e6 / ours["seconds"], None, None, None, None))
    return rows
