"""Texts as they lie in Parquet's buffers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.data.parquet import read_text_buffers
from luthier.errors import DataError

TEXTS = ["a river", "", "\u4e2d\u6587", "caf\u00e9 \U0001f3bb", "x" * 3000, "", "end\n"]


def write(path: Path, texts: Sequence[str | None], kind: pa.DataType | None = None, rows: int = 3) -> Path:
    pq.write_table(
        pa.table({"id": [str(i) for i in range(len(texts))], "text": pa.array(texts, kind or pa.string())}), path, row_group_size=rows
    )
    return path


def read(path: Path, start: int = 0, count: int | None = None) -> list[str]:
    found: list[str] = []
    for data, starts, ends in read_text_buffers(path, "text", start, count):
        assert data.dtype == np.uint8 and starts.dtype == ends.dtype == np.int64
        found += [data[first:last].tobytes().decode("utf-8") for first, last in zip(starts, ends, strict=True)]
    return found


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_all_texts_are_there_in_order(tmp_path: Path, rows: int, kind: pa.DataType) -> None:
    if pa.types.is_dictionary(kind):
        table = pa.table({"text": pa.array(TEXTS).dictionary_encode()})
        pq.write_table(table, tmp_path / "texts.parquet", row_group_size=rows, store_schema=False)
    else:
        write(tmp_path / "texts.parquet", TEXTS, kind, rows)
    assert read(tmp_path / "texts.parquet") == TEXTS


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 9), count=st.one_of(st.none(), st.integers(0, 9)), rows=st.integers(1, 8))
def test_a_stretch_of_rows(tmp_path: Path, start: int, count: int | None, rows: int) -> None:
    path = write(tmp_path / f"{rows}.parquet", TEXTS, rows=rows)
    assert read(path, start, count) == TEXTS[start : None if count is None else start + count]


def test_nothing_and_nulls(tmp_path: Path) -> None:
    assert read(write(tmp_path / "none.parquet", [])) == []
    assert read(write(tmp_path / "nulls.parquet", [None, "a", None, None])) == ["", "a", "", ""]
    assert read(write(tmp_path / "empty.parquet", ["", ""])) == ["", ""]


def test_what_is_no_text_or_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(DataError, match=r"numbers\.parquet.*must hold text, holds int64"):
        read(path)
    path.write_bytes(write(tmp_path / "whole.parquet", TEXTS).read_bytes()[:-20])
    with pytest.raises(DataError, match=r"numbers\.parquet: not a readable document shard"):
        read(path)
    with pytest.raises(DataError, match="missing"):
        read(tmp_path / "missing.parquet")
