"""Rows of encoding, packing and decoding: us against tiktoken, `tokenizers`, quicktok and gigatoken. In: a folder of shards. Out: rows."""

from __future__ import annotations

from typing import Any

from measuring import Bench, row

PEERS = ("tiktoken", "tokenizers", "quicktok", "gigatoken")
GOALS = {"tiktoken": 4.0, "tokenizers": 15.0}
PACKING_GOAL, SCALING_GOAL, DECODING_GOAL, MEGABYTE_GOAL = 6.0, 1.6, 100.0, 1.0


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
