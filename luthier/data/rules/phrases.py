# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Phrases in any case, compiled. In: UTF-8, phrases in small letters. Out: where one is. Next: backend.

Source: Wu and Manber, "A fast algorithm for multi-pattern searching", 1994: where the last two bytes of a window are in no phrase, as much
as a phrase is long is passed over at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import int64, uint64

from luthier.runs.compiling import kernel

Tables = tuple[np.ndarray, np.ndarray, np.ndarray]


@cache
def phrase_tables(phrases: tuple[bytes, ...]) -> Tables:
    """How far to go on behind two bytes, all phrases in one buffer, and where each begins.

    Shapes: (65536,) uint8, (bytes,) uint8, (phrases + 1,) int64
    """
    shortest = min((len(phrase) for phrase in phrases), default=0)
    shifts = np.full(2**16, max(shortest - 1, 0), np.uint8)
    for phrase in phrases:
        for last in range(1, shortest):
            for first_byte in _cases(phrase[last - 1]):
                for last_byte in _cases(phrase[last]):
                    pair = first_byte | last_byte << 8
                    shifts[pair] = min(shifts[pair], shortest - 1 - last)
    borders = np.cumsum([0, *(len(phrase) for phrase in phrases)])
    return shifts, np.frombuffer(b"".join(phrases), np.uint8), borders


def _cases(byte: int) -> Sequence[int]:
    return bytes([byte]) + bytes([byte]).upper()


@kernel
def find_phrase(data: Any, start: Any, end: Any, tables: Any) -> Any:
    """Where the first phrase begins in `data[start:end]`, or -1."""
    shifts, phrases, borders = tables
    shortest = end - start if borders.size > 1 else int64(0)
    for phrase in range(borders.size - 1):
        shortest = min(shortest, borders[phrase + 1] - borders[phrase])
    at = start + shortest - 1
    while at < end and shortest > 1:
        shift = shifts[uint64(data[uint64(at - 1)]) | uint64(data[uint64(at)]) << uint64(8)]
        if shift:
            at += int64(shift)
            continue
        begin = at - shortest + 1
        for phrase in range(borders.size - 1):
            length, k = borders[phrase + 1] - borders[phrase], 0
            while k < length and begin + length <= end:
                byte = data[begin + k]
                if (byte | 0x20 if 0x41 <= byte <= 0x5A else byte) != phrases[borders[phrase] + k]:
                    break
                k += 1
            if k == length:
                return begin
        at += 1
    return int64(-1)


@kernel
def have_phrase(data: Any, starts: Any, ends: Any, tables: Any, out: Any) -> None:
    """Write for each text whether it has a phrase. Shapes: out (texts,) bool"""
    for text in range(starts.size):
        out[text] = find_phrase(data, starts[text], ends[text], tables) >= 0
