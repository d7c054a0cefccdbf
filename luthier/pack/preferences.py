"""Preferences to training rows. In: pairs, a tokenizer. Out: rows of ids, loss mask and document numbers. Next: loader.

Both answers of a pair, each behind its own copy of the prompt, lie in one row; whole pairs share rows. Document 2i of the file is the
chosen side of pair i and 2i + 1 the rejected one, so that a row alone tells which pairs it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.errors import DataError
from luthier.pack.best_fit import Packing, best_fit
from luthier.pack.conversations import MOST_EXAMPLES, named
from luthier.pack.masked import MaskedRows, empty_rows
from luthier.runs.progress import Progress
from luthier.tasks.conversation import Message
from luthier.tasks.preferences import Preference
from luthier.tokenizer.chat import render
from luthier.tokenizer.tokenizer import Tokenizer

PADDING = -1
"""The document number of padding."""
_WORTH_A_WARNING = 0.01
Sequences = tuple[tuple[list[int], list[bool]], tuple[list[int], list[bool]]]
"""For each side of a pair its ids, and which of them are the answer, with what ends it."""


def pack_preferences(
    preferences: Sequence[Preference],
    system: Sequence[Message],
    tokenizer: Tokenizer,
    max_tokens: int,
    seq_len: int,
    directory: Path,
    split: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Pack pairs into rows of `seq_len` tokens, write them as `split`, and return the report.

    A side longer than `max_tokens` loses the oldest turns of its prompt, and so does the other; where the last turn alone is too long
    the pair is dropped, as where both sides together are longer than a row. No answer is ever cut. Both are counted.

    Raises: DataError when no pair is left.
    """
    progress = progress or Progress()
    fitted: list[tuple[str, Sequences]] = []
    shortened, examples = 0, list[dict[str, str]]()
    with progress.bar(f"packing {split}", len(preferences), "pairs") as bar:
        for one in preferences:
            found, whole = fit_pair(one, system, tokenizer, max_tokens, seq_len + 1)
            if found is not None:
                fitted.append((one.id, found))
                shortened += not whole
            if not whole and len(examples) < MOST_EXAMPLES:
                examples.append({"place": one.place, "what": "left out" if found is None else "cut"})
            bar.advance()
    dropped = len(preferences) - len(fitted)
    if not fitted:
        raise DataError(
            f"preferences: no {split} pair is left of {len(preferences)}: each side must fit into {max_tokens} tokens",
            fix="set pack.seq_len, or the stage's own, higher" if preferences else "add pairs, or set validation_share higher",
        )
    rows = best_fit(np.array([_length(found) for _, found in fitted]), seq_len + 1)
    tokens = sum(_length(found) for _, found in fitted)
    report: dict[str, Any] = {
        "pairs": len(preferences),
        "packed": len(fitted),
        "rows": len(rows),
        "shortened": shortened,
        "dropped": dropped,
        "too_long": examples,
        "tokens": tokens,
        "padding_fraction": round(1 - tokens / (len(rows) * (seq_len + 1)), 4),
        "chosen_tokens": round(float(np.mean([sum(found[0][1]) for _, found in fitted])), 2),
        "rejected_tokens": round(float(np.mean([sum(found[1][1]) for _, found in fitted])), 2),
        "chosen_longer": round(float(np.mean([sum(found[0][1]) > sum(found[1][1]) for _, found in fitted])), 4),
    }
    _write(fitted, rows, tokenizer, seq_len, directory, split, report)
    if shortened + dropped > _WORTH_A_WARNING * len(preferences):
        progress.warn(
            f"preferences: of {len(preferences)} {split} pairs {shortened} lose turns of their prompt and {dropped} are left out, "
            f"having a side longer than {max_tokens} tokens, or both than a row{named(examples)}; "
            "a higher pack.seq_len, or the stage's own, would keep more"
        )
    return report


def fit_pair(
    one: Preference, system: Sequence[Message], tokenizer: Tokenizer, max_tokens: int, capacity: int
) -> tuple[Sequences | None, bool]:
    """Render both sides behind as much of the prompt as fits; and whether that is all of it.

    `None` when not even one turn fits, or both sides together do not fit into the `capacity` of a row.
    """
    own = [message for message in one.prompt if message.role == "system"]
    turns = [message for message in one.prompt if message.role != "system"]
    for first in range(0, len(turns), 2):
        prompt = [*(own or system), *turns[first:]]
        chosen, rejected = (_side(prompt, answer, tokenizer) for answer in (one.chosen, one.rejected))
        if max(len(chosen[0]), len(rejected[0])) <= max_tokens:
            fits = len(chosen[0]) + len(rejected[0]) <= capacity
            return ((chosen, rejected), first == 0) if fits else (None, False)
    return None, False


def _side(prompt: Sequence[Message], answer: str, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and which of them are its last answer with what ends it."""
    before, _ = render(prompt, tokenizer)
    ids, mask = render([*prompt, Message("assistant", answer)], tokenizer)
    first = len(before) - tokenizer.chat.ends  # then `before` ends with a token that the whole has not got there
    return ids, [False] * first + mask[first:]


def _length(found: Sequences) -> int:
    return len(found[0][0]) + len(found[1][0])


def _write(
    fitted: Sequence[tuple[str, Sequences]],
    rows: Packing,
    tokenizer: Tokenizer,
    seq_len: int,
    directory: Path,
    split: str,
    report: dict[str, Any],
) -> None:
    arrays = empty_rows(len(rows), seq_len, tokenizer, PADDING)
    tokens, masks, documents = arrays.values()
    for row in range(len(rows)):
        start = 0
        for pair in map(int, rows.row(row)):
            for side, (ids, answer) in enumerate(fitted[pair][1]):
                stretch = np.s_[row, start : start + len(ids)]
                tokens[stretch], masks[stretch], documents[stretch] = ids, answer, 2 * pair + side
                start += len(ids)
    PreferenceRows.write(arrays, tokenizer, directory, split, report, pairs=len(fitted))


class PreferenceRows(MaskedRows):
    """Rows of packed pairs."""

    KIND = "preferences"
    VERSION = 1

    def __init__(self, arrays: list[np.ndarray], manifest: dict[str, Any], name: str = "") -> None:
        """Use `open`. Shapes: tokens, mask and documents, each (rows, T + 1)."""
        super().__init__(arrays, manifest, name)
        self.n_pairs, self.fingerprint = int(manifest["pairs"]), str(manifest["fingerprint"])

    def describe(self, index: int) -> list[dict[str, Any]]:
        """For each side of a pair in a row: the file, its number, its first token there and its tokens; padding is left out."""
        numbers, starts, counts = np.unique(self._documents[index], return_index=True, return_counts=True)
        return [
            {"shard": self._name, "row": index, "document": int(number), "first_token": int(start), "tokens": int(count)}
            for number, start, count in sorted(zip(numbers, starts, counts, strict=True), key=lambda found: int(found[1]))
            if number != PADDING
        ]
