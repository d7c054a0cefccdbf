"""Rows of whole documents: nothing is lost that is not counted, and nothing is cut that fits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from luthier.config.schema import PackSection
from luthier.pack.loader import IGNORE_INDEX, Loader, TokenRows
from luthier.pack.rows import PieceRows, report, training_rows
from luthier.pack.shards import TokenShards, pack_documents
from luthier.runs.progress import Progress
from tests.pack.corpus import TEXTS, tokenizer, write_documents

SHORT = ["a", "the fox", "hills", "été", "ran over"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    root = tmp_path_factory.mktemp("rows")
    documents = write_documents(root / "documents", {"train": [TEXTS[:30] + SHORT, TEXTS[30:45]], "validation": [TEXTS[45:]]})
    pack_documents(documents, tokenizer(), PackSection(seq_len=32, shard_tokens=500), root / "pack", Progress())
    return TokenShards.open(root / "pack", "train")


def documents_of(shards: TokenShards) -> list[list[int]]:
    stream, ends = shards.read(0, shards.n_tokens).tolist(), shards.document_ends.tolist()
    return [stream[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def test_document_ends_are_where_documents_end(shards: TokenShards) -> None:
    end = tokenizer().special.end_of_text
    stream = shards.read(0, shards.n_tokens)
    assert (np.flatnonzero(stream == end) + 1).tolist() == shards.document_ends.tolist()


@pytest.mark.parametrize("length", [8, 32, 100, 4000])
def test_best_fit_targets_each_token_once_or_counts_it(shards: TokenShards, length: int) -> None:
    rows = training_rows(shards, "best_fit", length)
    made = report(shards, rows)
    targets = np.concatenate([rows.row(i)[1] for i in range(rows.n_rows)])
    there = Counter(shards.read(0, shards.n_tokens).tolist())
    seen = Counter(targets[targets != IGNORE_INDEX].tolist())
    assert not seen - there and (there - seen).total() == made["dropped_tokens"]
    assert made["dropped_tokens"] <= sum(len(document) > length for document in documents_of(shards))
    in_no_row = rows.n_rows * length - shards.n_tokens
    assert made["rows"] == rows.n_rows and made["padding_share"] == pytest.approx(in_no_row / (rows.n_rows * length), abs=1e-6)
    fitting = sum(len(document) <= length for document in documents_of(shards))
    assert made["whole_documents_share"] == pytest.approx(fitting / shards.n_documents, abs=1e-4)


def test_best_fit_keeps_whole_what_fits_and_cuts_the_rest_by_rows(shards: TokenShards) -> None:
    length, end = 64, tokenizer().special.end_of_text
    rows = training_rows(shards, "best_fit", length, document_mask=True)
    pieces: list[tuple[int, ...]] = []
    for index in range(rows.n_rows):
        inputs, targets, doc_ids = rows.row(index)
        assert doc_ids is not None and doc_ids.dtype == np.int32 and doc_ids[0] == 0
        last = int(targets[-1]) if targets[-1] != IGNORE_INDEX else end
        tokens = [*inputs[1:].tolist(), last]  # the row's own, behind the one that comes before them
        numbers = doc_ids[1:].tolist()  # the last token is a target only
        parts = rows.describe(index)
        assert parts[0]["tokens"] == 1
        position = 0
        for number, part in enumerate(parts[1:]):
            piece = tokens[position : position + part["tokens"]]
            assert set(numbers[position : position + len(piece)]) <= {number}
            pieces.append(tuple(piece))
            position += len(piece)
        assert all(target == IGNORE_INDEX for target in targets[position:])
    expected: Counter[tuple[int, ...]] = Counter()
    for document in documents_of(shards):
        expected.update(tuple(document[start : start + length]) for start in range(0, len(document), length))
    found = Counter(tuple(piece) for piece in pieces)
    assert found == expected and any(piece[-1] == end for piece in found)


def test_a_row_begins_with_what_comes_before_it_in_the_stream(shards: TokenShards) -> None:
    rows = training_rows(shards, "best_fit", 16)
    stream = shards.read(0, shards.n_tokens)
    in_documents = 0
    for index in range(rows.n_rows):
        before, first = rows.describe(index)[:2]
        inputs, _, _ = rows.row(index)
        at = shards.document_ends[first["document"] - 1] if first["document"] else 0
        begins = first["document"] != before["document"]
        assert inputs[0] == stream[at - 1] if begins else inputs[0] != tokenizer().special.end_of_text
        in_documents += not begins
    assert 0 < in_documents < rows.n_rows


def test_the_middle_of_a_document_does_not_follow_from_another(shards: TokenShards) -> None:
    rows = training_rows(shards, "best_fit", 48)
    inner = 0
    for index in range(rows.n_rows):
        _, targets, _ = rows.row(index)
        last = max(np.flatnonzero(targets != IGNORE_INDEX))
        inner += np.count_nonzero(targets[:last] == IGNORE_INDEX)
    assert inner == report(shards, rows)["dropped_tokens"] > 0


def test_chunks_are_whole_rows_of_one_document(shards: TokenShards) -> None:
    length, end = 24, tokenizer().special.end_of_text
    rows = training_rows(shards, "chunks", length, document_mask=True)
    expected = [document[start : start + length] for document in documents_of(shards) for start in range(0, len(document) - length, length)]
    for index, targets in enumerate(expected):
        inputs, ours, doc_ids = rows.row(index)
        assert ours.tolist() == targets and inputs.tolist() == [end, *targets[:-1]] and not doc_ids.any()  # type: ignore[union-attr]
    made = report(shards, rows)
    assert rows.n_rows == len(expected) == made["rows"] and made["padding_share"] == 0
    assert made["dropped_tokens"] == shards.n_tokens - length * len(expected)


def test_a_stream_cuts_documents_and_says_how_many(shards: TokenShards) -> None:
    rows = training_rows(shards, "stream", 32)
    assert isinstance(rows, TokenRows)
    bounds = set(range(0, rows.n_rows * 32 + 1, 32))
    ends = shards.document_ends.tolist()
    whole = sum(
        end <= rows.n_rows * 32 and not any(start < bound < end for bound in bounds)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    )
    made = report(shards, rows)
    assert made["whole_documents_share"] == pytest.approx(whole / len(ends), abs=1e-4) and made["padding_share"] == 0


def test_phases_keep_their_rows_apart(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", {"train": [TEXTS[:20], TEXTS[20:40]], "validation": [TEXTS[40:]]})
    pack_documents(documents, tokenizer(), PackSection(seq_len=16), tmp_path / "pack", Progress())
    shards = TokenShards.open(tmp_path / "pack", "train")
    border = int(shards.document_ends[19])
    shards.phase_ends = (border, shards.n_tokens)
    for name in ("best_fit", "chunks"):
        rows = training_rows(shards, name, 64)
        assert isinstance(rows, PieceRows)
        first, last = rows.phase_ends
        assert 0 < first < last == rows.n_rows
        for index in range(rows.n_rows):
            numbers = [part["document"] for part in rows.describe(index)[1:]]
            assert all((number < 20) == (index < first) for number in numbers)
        assert set(Loader(rows, first, 1).rows(0).tolist()) == set(range(first))


def test_an_order_is_the_same_whoever_builds_it(shards: TokenShards) -> None:
    batches = [Loader(training_rows(shards, "best_fit", 32, document_mask=True), 6, 3, 320).batch(step) for step in (2, 2)]
    assert np.array_equal(batches[0].inputs, batches[1].inputs) and np.array_equal(batches[0].targets, batches[1].targets)
    loader = Loader(training_rows(shards, "best_fit", 32), 6, 3)
    shares = [loader.batch(2, part) for part in np.array_split(loader.rows(2), 4)]
    assert np.array_equal(np.concatenate([share.inputs for share in shares]), batches[0].inputs)
    assert sum(share.n_loss_tokens for share in shares) == batches[0].n_loss_tokens


def test_a_row_that_is_not_there(shards: TokenShards) -> None:
    rows = training_rows(shards, "best_fit", 32)
    with pytest.raises(IndexError, match="row must be"):
        rows.row(rows.n_rows)
