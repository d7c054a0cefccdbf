"""A token budget keeps a beginning; sources are counted; phases follow each other in every epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.config.schema import PackSection
from luthier.data.shards import describe_shard
from luthier.errors import DataError
from luthier.pack.loader import Loader, TokenRows
from luthier.pack.shards import TokenShards, pack_documents
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.runs.progress import Progress
from tests.pack.corpus import TEXTS, expected_stream, tokenizer, write_documents

TRAIN = [TEXTS[:20], TEXTS[20:30], TEXTS[30:50]]
CONFIG = PackSection(seq_len=16, shard_tokens=300)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "documents", {"train": TRAIN, "validation": [TEXTS[50:]]})


def pack(documents: Path, to: Path, budget: int | None = None) -> dict[str, Any]:
    return pack_documents(documents, tokenizer(), CONFIG, to, Progress(), budget)


def rewrite(documents: Path, phases: tuple[int, ...] = (0, 0, 0)) -> None:
    """Give the training documents two sources in turn, and their shards phases."""
    manifest = read_manifest(documents / "manifest.json") or {}
    shards: list[dict[str, Any]] = manifest["splits"]["train"]["shards"]
    for shard, phase in zip(shards, phases, strict=True):
        table = pq.read_table(documents / shard["file"])
        sources = pa.array([("stories", "facts")[row % 2] for row in range(table.num_rows)])
        pq.write_table(table.set_column(table.schema.get_field_index("source"), "source", sources), documents / shard["file"])
        shard.update({**describe_shard(documents / shard["file"]), "phase": phase})
    write_manifest(documents / "manifest.json", manifest)


def stream(directory: Path) -> list[int]:
    shards = TokenShards.open(directory, "train")
    return shards.read(0, shards.n_tokens).tolist()


def test_a_budget_keeps_a_beginning_of_what_twice_as_much_keeps(documents: Path, tmp_path: Path) -> None:
    whole = pack(documents, tmp_path / "whole")["splits"]
    everything = expected_stream([text for part in TRAIN for text in part])
    before: list[int] = []
    for budget in (200, 400, 800, 1600, whole["train"]["tokens"], 10**9):
        made = pack(documents, tmp_path / str(budget), budget)["splits"]
        kept = stream(tmp_path / str(budget))
        assert len(kept) == made["train"]["tokens"] <= budget
        assert kept == everything[: len(kept)] and kept[: len(before)] == before
        assert len(kept) == len(everything) or len(kept) + 150 > budget, "the next document would have been too much"
        assert made["validation"] == whole["validation"]
        before = kept
    assert before == everything
    assert pack(documents, tmp_path / "800", 800)["splits"]["train"]["tokens"] == len(stream(tmp_path / "800"))


def test_a_budget_below_one_row_is_refused(documents: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the train documents give 0 tokens"):
        pack(documents, tmp_path / "pack", 3)


def test_tokens_of_each_source_are_counted(documents: Path, tmp_path: Path) -> None:
    rewrite(documents)
    for budget in (None, 700):
        made = pack(documents, tmp_path / f"pack{budget}", budget)["splits"]["train"]
        assert set(made["sources"]) == {"stories", "facts"}
        for what in ("documents", "tokens"):
            assert sum(source[what] for source in made["sources"].values()) == made[what]
    facts = [text for part in TRAIN for text in part[1::2]]
    whole = pack(documents, tmp_path / "packNone")["splits"]["train"]["sources"]
    assert whole["facts"] == {"documents": len(facts), "tokens": len(expected_stream(facts))}


def test_phases_have_their_share_of_the_budget_and_follow_each_other(documents: Path, tmp_path: Path) -> None:
    rewrite(documents, (0, 0, 1))
    whole = pack(documents, tmp_path / "whole")["splits"]["train"]
    first = len(expected_stream([*TRAIN[0], *TRAIN[1]]))
    assert whole["phase_tokens"] == [first, whole["tokens"] - first]
    budget = whole["tokens"] // 2
    half = pack(documents, tmp_path / "half", budget)["splits"]["train"]
    assert half["tokens"] <= budget
    for some, all_of_it in zip(half["phase_tokens"], whole["phase_tokens"], strict=True):
        assert all_of_it / 2 - 200 < some < all_of_it / 2 + 100
    shards = TokenShards.open(tmp_path / "whole", "train")
    rows = TokenRows(shards, CONFIG.seq_len)
    border = -(-first // CONFIG.seq_len)
    assert rows.phase_ends == (border, rows.n_rows)
    loader = Loader(rows, 7, 5)
    order = np.concatenate([loader.rows(step) for step in range(3 * rows.n_rows // 7 + 1)])
    for epoch in range(3):
        one = order[epoch * rows.n_rows : (epoch + 1) * rows.n_rows]
        assert np.array_equal(np.sort(one[:border]), np.arange(border)) and np.array_equal(np.sort(one), np.arange(rows.n_rows))
        assert not np.array_equal(one[:border], np.sort(one[:border]))
    other = Loader(rows, 3, 5)
    assert np.array_equal(np.concatenate([other.rows(step) for step in range(len(order) // 3)]), order[: len(order) // 3 * 3])
    assert np.array_equal(loader.batch(9).inputs, Loader(rows, 7, 5).batch(9).inputs), "a step is a function of its number"
