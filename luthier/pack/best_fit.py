"""Best fit, longest first. In: lengths, a row's room. Out: which items share a row. Next: rows, conversations.

Items of one length are interchangeable, and so are rows with the same room left. So whole groups of them are moved at once, and the time
is that of sorting: ten million documents take seconds.

Source: Ding et al. 2024, "Fewer truncations improve language modeling", section 3.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Packing:
    """The items of each row. Shapes: items (n,), ends (rows,): row i has items[ends[i - 1] : ends[i]], in the order they were put in."""

    items: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, index: int) -> np.ndarray:
        """The items of a row."""
        return self.items[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]


def best_fit(lengths: np.ndarray, capacity: int) -> Packing:
    """Put items, longest first, each into the row where it leaves the least room.

    Ties go to the item and to the row that came first, so the result depends on the lengths alone.
    Raises: ValueError for a length outside 1..capacity
    """
    if lengths.size and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(f"lengths must be in 1..{capacity}, got {lengths.min()}..{lengths.max()}")
    small = np.uint16 if capacity < 2**16 else np.int64  # NumPy sorts short numbers by radix
    order = np.argsort((capacity - lengths).astype(small), kind="stable")  # longest first
    sizes, counts = np.unique(lengths, return_counts=True)
    row_of = np.empty(len(lengths), np.int64)  # in the order of `order`
    rooms, n_rows, start = _Rooms(), 0, 0
    runs: list[tuple[int, int]] = list(zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True))
    for size, count in runs:
        end = start + count
        while start < end:
            room, rows = rooms.take(size)
            if room is None:
                room, opened = capacity, -(-(end - start) // (capacity // size))
                rows, n_rows = np.arange(n_rows, n_rows + opened), n_rows + opened
            each = room // size  # once a row has taken one, it is the fullest that can take the next
            taken = -(-(end - start) // each)
            rooms.give(room, rows[taken:])
            rows = rows[:taken]
            put = min(end - start, len(rows) * each)
            row_of[start : start + put] = np.repeat(rows, each)[:put]
            whole, rest = divmod(put, each)
            rooms.give(room - each * size, rows[:whole])
            rooms.give(room - rest * size, rows[whole:])
            start += put
    by_row = np.argsort(row_of, kind="stable")
    return Packing(order[by_row], np.cumsum(np.bincount(row_of, minlength=n_rows)))


class _Rooms:
    """The rows that still have room, by how much."""

    def __init__(self) -> None:
        self._sizes: list[int] = []  # ascending
        self._rows: dict[int, list[np.ndarray]] = {}

    def take(self, size: int) -> tuple[int | None, np.ndarray]:
        """Take all rows with the least room that is at least `size`, in their order; none has it: `None`."""
        position = bisect_left(self._sizes, size)
        if position == len(self._sizes):
            return None, np.empty(0, np.int64)
        room = self._sizes.pop(position)
        groups = self._rows.pop(room)
        return room, groups[0] if len(groups) == 1 else np.sort(np.concatenate(groups), kind="stable")

    def give(self, room: int, rows: np.ndarray) -> None:
        """Note rows that have this much room left."""
        if not room or not len(rows):
            return
        if room not in self._rows:
            self._rows[room] = []
            insort(self._sizes, room)
        self._rows[room].append(rows)
