"""Conversations to training rows. In: conversations, a tokenizer. Out: rows of ids, loss mask and document numbers. Next: loader.

Whole conversations share rows (best fit, longest first); their document numbers keep attention apart. Targets are the assistant's
tokens and nothing else, by the mask that rendering made; `supervise` may narrow it to the last answer or to what ends
each, or widen it to all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from luthier.errors import DataError
from luthier.pack.best_fit import Packing, best_fit
from luthier.pack.masked import MaskedRows, empty_rows
from luthier.runs.progress import Progress
from luthier.tasks.conversation import Conversation, Message
from luthier.tokenizer.chat import render_message
from luthier.tokenizer.tokenizer import Tokenizer

Supervise = Literal["assistant", "last", "end", "all"]
_WORTH_A_WARNING = 0.01
MOST_EXAMPLES = 5


def pack_conversations(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    seq_len: int,
    directory: Path,
    split: str,
    progress: Progress | None = None,
    supervise: Supervise = "assistant",
) -> dict[str, Any]:
    """Pack conversations into rows of `seq_len` tokens, write them as `split`, and return the report.

    A conversation that is too long loses its last messages, so that it ends with a whole answer; when none fits, or there is none,
    it is dropped. Both are counted.

    Raises: DataError when no conversation is left.
    """
    progress = progress or Progress()
    capacity = seq_len + 1
    rendered: list[tuple[list[int], list[bool]]] = []
    truncated, examples = 0, list[dict[str, str]]()
    with progress.bar(f"packing {split}", len(conversations), "conversations") as bar:
        for conversation in conversations:
            ids, mask, whole = fit(conversation.messages, tokenizer, capacity, supervise)
            if ids:
                rendered.append((ids, mask))
                truncated += not whole
            if not whole and len(examples) < MOST_EXAMPLES:
                examples.append({"place": conversation.place, "what": "cut" if ids else "left out"})
            bar.advance()
    dropped = len(conversations) - len(rendered)
    if not rendered:
        raise DataError(
            f"no {split} conversation is left of {len(conversations)}: each must have an answer that fits into {capacity} tokens",
            fix="set pack.seq_len, or the stage's own, higher" if conversations else "add conversations, or set validation_share higher",
        )
    rows = best_fit(np.array([len(ids) for ids, _ in rendered]), capacity)
    tokens = sum(len(ids) for ids, _ in rendered)
    supervised = sum(sum(mask) for _, mask in rendered)
    report = {
        "conversations": len(conversations),
        "rows": len(rows),
        "truncated": truncated,
        "dropped": dropped,
        "too_long": examples,
        "supervise": supervise,
        "supervised_tokens": supervised,
        "tokens": tokens,
        "supervised_fraction": round(supervised / tokens, 4),
        "padding_fraction": round(1 - tokens / (len(rows) * capacity), 4),
    }
    _write(rendered, rows, tokenizer, seq_len, directory, split, report)
    if truncated + dropped > _WORTH_A_WARNING * len(conversations):
        progress.warn(
            f"conversations: of {len(conversations)} {split} ones {truncated} are cut and {dropped} left out, being longer than "
            f"{capacity} tokens or without an answer{named(examples)}; a higher pack.seq_len, or the stage's own, would keep more"
        )
    return report


def named(examples: Sequence[Mapping[str, str]]) -> str:
    """Say where what was too long stands, for a warning."""
    places = [f"{one['place']} ({one['what']})" for one in examples if one["place"]][:2]
    return f", the first at {', '.join(places)}" if places else ""


def fit(
    messages: Sequence[Message], tokenizer: Tokenizer, capacity: int, supervise: Supervise = "assistant"
) -> tuple[list[int], list[bool], bool]:
    """Render as many messages as fit; return ids, loss mask, and whether that is all of them.

    What is cut ends behind a whole answer, its end of turn included. Ids are empty when nothing to learn from fits.
    """
    special, chat = tokenizer.special, tokenizer.chat
    ids = [special.begin_of_text] if chat.begins else []
    mask = [False] * len(ids)
    end_of_answer = last_answer = 0
    whole = True
    for message in messages:
        more_ids, more_mask = render_message(message, tokenizer)
        if len(ids) + len(more_ids) + chat.ends > capacity:
            del ids[end_of_answer:], mask[end_of_answer:]
            whole = False
            break
        if message.role == "assistant":
            last_answer, end_of_answer = len(ids), len(ids) + len(more_ids)
        ids += more_ids
        mask += more_mask
    if not end_of_answer:
        return [], [], False
    if chat.ends:
        mask.append(len(ids) == end_of_answer)
        ids.append(special.end_of_text)
    if supervise == "last":
        mask[:last_answer] = [False] * last_answer
    elif supervise == "end":
        ends = (special.end_of_turn, special.end_of_text)
        mask = [learned and token in ends for token, learned in zip(ids, mask, strict=True)]
    elif supervise == "all":
        mask = [False, *[True] * (len(ids) - 1)]  # nothing stands before the first token that could predict it
    return ids, mask, whole


def _write(
    rendered: Sequence[tuple[list[int], list[bool]]],
    rows: Packing,
    tokenizer: Tokenizer,
    seq_len: int,
    directory: Path,
    split: str,
    report: dict[str, Any],
) -> None:
    arrays = empty_rows(len(rows), seq_len, tokenizer, 0)
    tokens, masks, documents = arrays.values()
    for row in range(len(rows)):
        items: list[int] = rows.row(row).tolist()
        start = 0
        for number, item in enumerate(items):
            ids, mask = rendered[item]
            stretch = np.s_[row, start : start + len(ids)]
            tokens[stretch], masks[stretch], documents[stretch] = ids, mask, number
            start += len(ids)
        documents[row, start:] = len(items)  # padding is a document of its own
    ConversationRows.write(arrays, tokenizer, directory, split, report)


class ConversationRows(MaskedRows):
    """Rows of packed conversations."""

    KIND = "conversations"
    VERSION = 2

    def describe(self, index: int) -> list[dict[str, Any]]:
        """For each conversation of a row: the file, its number in the row, its first token there and its tokens; padding is left out."""
        documents, mask = self._documents[index], self._mask[index]
        starts = [0, *(np.flatnonzero(np.diff(documents)) + 1).tolist(), len(documents)]
        return [
            {"shard": self._name, "row": index, "document": int(documents[start]), "first_token": start, "tokens": end - start}
            for start, end in pairwise(starts)
            if mask[start:end].any()  # a conversation has an answer, padding has none
        ]

    def require_mask(self, tokenizer: Tokenizer, supervise: Supervise = "assistant") -> None:
        """Check what is learned once more, from the rows alone: by the special tokens before it each target tells who speaks.

        Raises: DataError when a conversation has no target, or a target is padding, what opens a message, or what another role says
        """
        special = tokenizer.special
        openings = np.array(sorted(special.roles.values()))
        distinct = special.assistant not in (special.user, special.system)
        for row in range(self.n_rows):
            tokens, mask, documents = (np.asarray(part[row]) for part in (self._tokens, self._mask, self._documents))
            starts = np.flatnonzero(np.diff(documents, prepend=-1))
            silent = starts[~np.logical_or.reduceat(mask, starts)]
            if len(silent) > 1 or (len(silent) == 1 and (silent[0] != starts[-1] or not np.all(tokens[silent[0] :] == special.pad))):
                raise self._wrong(row, int(silent[0]), "a conversation without anything to learn")
            wrong = mask & (tokens == special.pad) & (special.pad not in (special.end_of_turn, special.end_of_text))
            if supervise != "all" and distinct:
                opens = np.isin(tokens, openings)
                last = np.maximum.accumulate(np.where(opens, np.arange(len(tokens)), 0))
                wrong |= mask & (opens | (tokens[last] != special.assistant))
            if wrong.any():
                raise self._wrong(row, int(np.argmax(wrong)), "a target that the assistant does not say")

    def _wrong(self, row: int, token: int, what: str) -> DataError:
        return DataError(f"{self._name}: row {row}, token {token}: {what}", fix="the conversations were packed wrongly: pack them again")
