"""Ids back to bytes. In: an array of ids, the bytes of all entries in one array. Out: bytes. Next: tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.errors import DataError

_IDS_AT_ONCE = 2**13
"""So many keep the intermediate arrays in the processor's cache."""


def token_arena(tokens: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Lay all entries' bytes one behind the other, in the order of their ids; entry i is `arena[starts[i]:starts[i + 1]]`.

    Shapes: arena (bytes,) uint8, starts (V + 1,) int64
    """
    return np.frombuffer(b"".join(tokens), np.uint8), np.cumsum([0, *map(len, tokens)], dtype=np.int64)


def decode_ids(ids: np.ndarray, arena: np.ndarray, starts: np.ndarray) -> bytes:
    """Join the bytes of ids; `token_arena` makes `arena` and `starts`.

    Raises: DataError for an id that is not in the vocabulary.
    """
    entries = starts.size - 1
    if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < entries):
        wrong = ids[(ids < 0) | (ids >= entries)][0]
        raise DataError(f"a token id must be in 0..{entries - 1}, got {wrong}", fix="use the tokenizer that made the ids")
    firsts, lengths = starts[:-1], np.diff(starts)
    # Half the memory to go through, which is what takes the time, wherever places fit into it.
    kind = np.int32 if arena.size + _IDS_AT_ONCE * int(lengths.max(initial=0)) < 2**31 else np.int64
    firsts, lengths = firsts.astype(kind), lengths.astype(kind)
    parts: list[np.ndarray] = []
    for at in range(0, ids.size, _IDS_AT_ONCE):
        some = ids[at : at + _IDS_AT_ONCE]
        sizes = lengths.take(some)
        # Byte number k of the result is byte k of the arena, moved by as much as its entry is moved.
        places = np.repeat(firsts.take(some) - (np.cumsum(sizes, dtype=kind) - sizes), sizes)
        places += np.arange(places.size, dtype=kind)
        parts.append(arena.take(places))
    return np.concatenate(parts).tobytes() if parts else b""
