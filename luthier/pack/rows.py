"""Rows of whole documents. In: token shards, how rows are made. Out: a `RowSource`, and what became of the documents. Next: loader.

A row has one token before its T targets: what comes before its first piece, `<|end_of_text|>` where that begins a document. So each packed
token is a target once. Which piece is in which row follows from the documents' lengths alone and takes seconds for ten million of them, so
it is found anew when a training starts or goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np

from luthier.pack.best_fit import best_fit
from luthier.pack.loader import IGNORE_INDEX, Row, RowSource, TokenRows
from luthier.pack.shards import TokenShards

RowsName = Literal["stream", "best_fit", "chunks"]


class RowsReport(TypedDict):
    """What rows do to documents. Units: shares from 0 to 1, of the rows' positions and of the documents; tokens that are in no row."""

    rows: int
    padding_share: float
    whole_documents_share: float
    dropped_tokens: int


def training_rows(shards: TokenShards, name: RowsName, seq_len: int, document_mask: bool = False) -> TokenRows | PieceRows:
    """The rows that `pack.rows` names.

    `document_mask` gives document ids, so that attention does not cross from one document into the next.
    """
    if name == "stream":
        return TokenRows(shards, seq_len, document_mask)
    layout = _whole_documents if name == "best_fit" else _chunks
    return PieceRows(shards, layout(shards, seq_len), seq_len, document_mask)


def report(shards: TokenShards, rows: RowSource) -> RowsReport:
    """What rows do to documents: in a stream, a document is whole when no border of a row cuts it."""
    if isinstance(rows, PieceRows):
        return rows.report()
    ends, length = shards.document_ends, rows.seq_len
    starts = np.append(0, ends[:-1])
    whole = int(np.count_nonzero((starts // length == (ends - 1) // length) & (ends <= rows.n_rows * length)))
    dropped = rows.n_dropped_tokens if isinstance(rows, TokenRows) else 0
    return {
        "rows": rows.n_rows,
        "padding_share": 0.0,
        "whole_documents_share": round(whole / max(1, len(ends)), 4),
        "dropped_tokens": dropped,
    }


@dataclass(frozen=True, eq=False)
class Layout:
    """Stretches of the stream, row by row. Shapes: starts, lengths and begins (pieces,), ends (rows,), phase_ends (phases,)."""

    starts: np.ndarray
    lengths: np.ndarray
    begins: np.ndarray
    """Whether a piece begins a document."""
    ends: np.ndarray
    """Behind each row's last piece."""
    phase_ends: tuple[int, ...]
    """Where each phase's rows end."""
    whole_documents: int
    """How many documents are in one piece."""
    begins_anew: bool = False
    """Whether each row begins with `<|end_of_text|>`, the middle of a document too."""


def _documents(shards: TokenShards) -> tuple[np.ndarray, np.ndarray, Sequence[int]]:
    """Where documents begin and end in the stream, and where the phases end among them."""
    ends = shards.document_ends
    return np.append(0, ends[:-1]), ends, np.searchsorted(ends, shards.phase_ends, side="right").tolist()


def _cut(starts: np.ndarray, counts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The beginnings of each document's first so many stretches of `length`, and their numbers in their documents."""
    numbers: np.ndarray = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + numbers * length, numbers


def _whole_documents(shards: TokenShards, length: int) -> Layout:
    """Documents, and pieces of those longer than a row, by best fit; the phases of a mix apart."""
    starts, ends, phases = _documents(shards)
    whole = int(np.count_nonzero(ends - starts <= length))
    layouts: list[tuple[np.ndarray, ...]] = []
    phase_ends: list[int] = []
    n_pieces = n_rows = first = 0
    for last in phases:
        some = slice(first, last)
        counts = -(-(ends[some] - starts[some]) // length)
        pieces, numbers = _cut(starts[some], counts, length)
        lengths = np.minimum(length, np.repeat(ends[some], counts) - pieces)
        packing = best_fit(lengths, length)
        layouts.append((pieces[packing.items], lengths[packing.items], numbers[packing.items] == 0, packing.ends + n_pieces))
        n_pieces, n_rows, first = n_pieces + len(pieces), n_rows + len(packing), last
        phase_ends.append(n_rows)
    starts, lengths, begins, row_ends = (np.concatenate(parts) for parts in zip(*layouts, strict=True))
    return Layout(starts, lengths, begins, row_ends, tuple(phase_ends), whole)


def _chunks(shards: TokenShards, length: int) -> Layout:
    """Each document's stretches of a row's length; what is left over, and `<|end_of_text|>`, is dropped.

    Source: qt's pre-tokenised rows.
    """
    starts, ends, phases = _documents(shards)
    counts = (ends - starts - 1) // length
    pieces, numbers = _cut(starts, counts, length)
    phase_ends = np.append(0, np.cumsum(counts))[phases]
    lengths, rows = np.full(len(pieces), length), np.arange(1, len(pieces) + 1)
    whole = int(np.count_nonzero(ends - starts - 1 == length))
    return Layout(pieces, lengths, numbers == 0, rows, tuple(phase_ends.tolist()), whole, begins_anew=True)


class PieceRows:
    """Rows of documents and pieces of them; what is left of a row is padding, which is no target."""

    def __init__(self, shards: TokenShards, layout: Layout, seq_len: int, document_mask: bool = False) -> None:
        self.shards, self._layout, self._seq_len, self._document_mask = shards, layout, seq_len, document_mask
        self._end_of_text = int(shards.read(shards.n_tokens - 1, 1)[0])  # every document ends with it

    @property
    def n_rows(self) -> int:
        return len(self._layout.ends)

    @property
    def seq_len(self) -> int:
        return self._seq_len

    @property
    def phase_ends(self) -> tuple[int, ...]:
        """Where each phase's rows end."""
        return self._layout.phase_ends

    def row(self, index: int) -> Row:
        starts, lengths, begins = self._pieces(index)
        tokens = np.full(self._seq_len + 1, self._end_of_text, np.int64)
        tokens[:1] = self._before(starts[0])
        ends = np.cumsum(lengths)
        for start, length, end in zip(starts.tolist(), lengths.tolist(), ends.tolist(), strict=True):
            tokens[1 + end - length : 1 + end] = self.shards.read(start, length)
        targets = tokens[1:].copy()
        targets[ends[-1] :] = IGNORE_INDEX
        targets[ends[:-1][~begins[1:]]] = IGNORE_INDEX  # the middle of a document does not follow from the end of another
        if not self._document_mask:
            return tokens[:-1], targets, None
        doc_ids = np.searchsorted(ends, np.arange(self._seq_len), side="left")  # the token before a row's first piece is of its document
        return tokens[:-1], targets, doc_ids.astype(np.int32)

    def describe(self, index: int) -> list[dict[str, Any]]:
        """For each part of a row, the token before it included: its shard, its number in the split, where it begins there, its tokens."""
        starts, lengths, _ = self._pieces(index)
        before = self.shards.documents((int(starts[0]) - 1) % self.shards.n_tokens, 1)
        pieces = zip(starts.tolist(), lengths.tolist(), strict=True)
        return before + [part for start, length in pieces for part in self.shards.documents(start, length)]

    def report(self) -> RowsReport:
        """What became of the documents."""
        lengths, begins = self._layout.lengths, self._layout.begins
        packed = int(lengths.sum())
        in_a_row = np.ones(len(lengths), np.bool_)
        in_a_row[np.append(0, self._layout.ends[:-1])[: self.n_rows]] = False
        not_targets = int(np.count_nonzero(in_a_row & ~begins))
        return {
            "rows": self.n_rows,
            "padding_share": round(1 - packed / max(1, self.n_rows * self._seq_len), 6),
            "whole_documents_share": round(self._layout.whole_documents / max(1, self.shards.n_documents), 4),
            "dropped_tokens": self.shards.n_tokens - packed + not_targets,
        }

    def _before(self, start: int) -> int:
        """The token that a row begins with: the one before its first piece."""
        return self._end_of_text if self._layout.begins_anew or start == 0 else int(self.shards.read(start - 1, 1)[0])

    def _pieces(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts and lengths of a row's pieces, and whether they begin documents."""
        if not 0 <= index < self.n_rows:
            raise IndexError(f"row must be in 0..{self.n_rows - 1}, got {index}")
        some = slice(int(self._layout.ends[index - 1]) if index else 0, int(self._layout.ends[index]))
        return self._layout.starts[some], self._layout.lengths[some], self._layout.begins[some]
