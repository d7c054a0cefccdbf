"""Token shards hold every token, say so when altered, and are not made twice."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config.schema import PackSection
from luthier.config.tokenization import TokenizerSection
from luthier.errors import DataError, StorageError
from luthier.pack import shards as shards_module
from luthier.pack.loader import Loader, TokenRows
from luthier.pack.shards import SPLITS, TokenShards, dtype_for, pack_documents
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.runs.progress import Progress
from luthier.tokenizer import fast
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.tokenizer.train import train_tokenizer
from tests.fuzz import FUZZ, altered, replaced
from tests.pack.corpus import TEXTS, expected_stream, tokenizer, write_documents

TRAIN = [TEXTS[:20], TEXTS[20:21], TEXTS[21:50]]
VALIDATION = [TEXTS[50:]]
CONFIG = PackSection(seq_len=32, shard_tokens=700)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "documents", {"train": TRAIN, "validation": VALIDATION})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that tests share and only read."""
    root = tmp_path_factory.mktemp("shared")
    pack(write_documents(root / "documents", {"train": TRAIN, "validation": VALIDATION}), root / "pack")
    return root / "pack"


def pack(documents: Path, directory: Path, config: PackSection = CONFIG, progress: Progress | None = None) -> dict[str, Any]:
    return pack_documents(documents, tokenizer(), config, directory, progress or Progress())


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_every_token_is_there_in_order(documents: Path, tmp_path: Path) -> None:
    manifest = pack(documents, tmp_path / "pack")
    assert manifest == read_manifest(tmp_path / "pack" / "manifest.json")
    for split, parts in (("train", TRAIN), ("validation", VALIDATION)):
        texts = [text for part in parts for text in part]
        expected = expected_stream(texts)
        record = manifest["splits"][split]
        shards = TokenShards.open(tmp_path / "pack", split)
        assert shards.read(0, shards.n_tokens).tolist() == expected
        assert (shards.n_tokens, shards.n_bytes, shards.n_documents) == (len(expected), sum(len(t.encode()) for t in texts), len(texts))
        assert (record["tokens"], record["bytes"], record["documents"]) == (shards.n_tokens, shards.n_bytes, shards.n_documents)
        assert record["rows"] * 32 + 1 + record["dropped_tokens"] == shards.n_tokens and record["dropped_tokens"] < 32
        assert all(shard["tokens"] < 700 + 200 for shard in record["shards"])
        assert shards.dtype == np.dtype("<u2") and manifest["dtype"] == "uint16"
    assert len(manifest["splits"]["train"]["shards"]) > len(TRAIN)
    assert [shard["file"] for shard in manifest["splits"]["train"]["shards"]][:2] == ["train-00000.bin", "train-00001.bin"]
    assert shards.read(0, 5).dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_stretch_reads_across_shards(packed: Path, data: st.DataObject) -> None:
    shards = TokenShards.open(packed, "train")
    expected = expected_stream([text for part in TRAIN for text in part])
    start = data.draw(st.integers(0, len(expected)))
    count = data.draw(st.integers(0, len(expected) - start))
    assert shards.read(start, count).tolist() == expected[start : start + count]
    is_end = np.array(expected) == tokenizer().special.end_of_text
    ends = np.cumsum(is_end) - is_end
    numbers = ends[start : start + count]
    assert shards.doc_ids(start, count).tolist() == (numbers - numbers[:1]).tolist()


def test_a_row_says_what_it_is_made_of(packed: Path) -> None:
    shards = TokenShards.open(packed, "train")
    rows, numbers = TokenRows(shards, 32), shards.doc_ids(0, shards.n_tokens)
    records = (read_manifest(packed / "manifest.json") or {})["splits"]["train"]["shards"]
    offsets = {record["file"]: sum(r["tokens"] for r in records[:i]) for i, record in enumerate(records)}
    for index in range(rows.n_rows):
        at = index * 32
        for part in rows.describe(index):
            assert offsets[part["shard"]] + part["first_token"] == at
            assert set(numbers[at : at + part["tokens"]].tolist()) == {part["document"]}
            at += part["tokens"]
        assert at == index * 32 + 33
    with pytest.raises(IndexError):
        rows.describe(rows.n_rows)


def test_a_token_outside_the_vocabulary_is_refused_with_its_document(documents: Path, tmp_path: Path) -> None:
    """C4."""
    pack(documents, tmp_path / "pack")
    shards = TokenShards.open(tmp_path / "pack", "train")
    rows = TokenRows(shards, 32)
    vocab_size = tokenizer().vocab_size
    loader = Loader(rows, rows.n_rows, 1, vocab_size)
    assert loader.batch(0).inputs.max() < vocab_size
    for token in (vocab_size, 65_535):
        wrong = [array.copy() for array in shards._shards]
        wrong[1][7] = token
        bad = TokenShards.open(tmp_path / "pack", "train")
        bad._shards = wrong  # type: ignore[assignment]
        position = wrong[0].size + 7
        document = int(shards.doc_ids(0, shards.n_tokens)[position])
        row, place = divmod(position, 32)
        with pytest.raises(DataError, match=rf"token id {token} is not in 0\.\.{vocab_size - 1}") as caught:
            Loader(TokenRows(bad, 32), rows.n_rows, 1, vocab_size).batch(0)
        text = str(caught.value)
        assert f"document {document} in train-00001.bin, token 7 there" in text and f"row {row}, position {place}" in text


def test_outside_the_stream_is_refused(packed: Path) -> None:
    shards = TokenShards.open(packed, "train")
    for start, count in ((-1, 2), (0, shards.n_tokens + 1), (shards.n_tokens, 1), (3, -1)):
        with pytest.raises(IndexError):
            shards.read(start, count)
    rows = TokenRows(shards, 32)
    for index in (-1, rows.n_rows):
        with pytest.raises(IndexError):
            rows.row(index)


@pytest.mark.parametrize("seq_len", [8, 32, 100])
def test_rows_lose_only_the_last_stretch(packed: Path, seq_len: int) -> None:
    shards = TokenShards.open(packed, "train")
    rows = TokenRows(shards, seq_len, document_mask=True)
    stream = shards.read(0, shards.n_tokens)
    all_rows = [rows.row(i) for i in range(rows.n_rows)]
    covered = rows.n_rows * seq_len
    assert np.concatenate([inputs for inputs, _, _ in all_rows]).tolist() == stream[:covered].tolist()
    assert np.concatenate([targets for _, targets, _ in all_rows]).tolist() == stream[1 : covered + 1].tolist()
    assert rows.n_dropped_tokens == shards.n_tokens - covered - 1 < seq_len
    for i, (_, _, doc_ids) in enumerate(all_rows):
        assert doc_ids is not None and doc_ids.dtype == np.int32 and doc_ids.shape == (seq_len,)
        assert doc_ids.tolist() == shards.doc_ids(i * seq_len, seq_len).tolist()
    assert TokenRows(shards, seq_len).row(0)[2] is None
    batch = Loader(rows, 4, seed=1).batch(0)
    assert batch.inputs.shape == batch.targets.shape == (4, seq_len) and batch.n_loss_tokens == 4 * seq_len


def test_the_same_input_gives_the_same_bytes(documents: Path, tmp_path: Path) -> None:
    pack(documents, tmp_path / "a")
    pack(documents, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    again = pack(documents, tmp_path / "c", CONFIG.model_copy(update={"shard_tokens": 2**20}))
    assert len(again["splits"]["train"]["shards"]) == len(TRAIN)
    one, other = TokenShards.open(tmp_path / "a", "train"), TokenShards.open(tmp_path / "c", "train")
    assert np.array_equal(one.read(0, one.n_tokens), other.read(0, other.n_tokens))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("documents_before", [0, 1, 19, 25, 40, 55])
def test_packing_goes_on_after_a_stop(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents_before: int) -> None:
    pack(documents, tmp_path / "whole")
    monkeypatch.setattr(shards_module, "_DOCUMENTS_IN_A_BATCH", 1)
    original, encoded = shards_module._encoded_documents, []

    def until_killed(path: Path, tokenizer: Tokenizer):  # type: ignore[no-untyped-def]
        for ids in original(path, tokenizer):
            if len(encoded) == documents_before:
                raise Killed
            encoded.append(path.name)
            yield ids

    monkeypatch.setattr(shards_module, "_encoded_documents", until_killed)
    with pytest.raises(Killed):
        pack(documents, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    with pytest.raises(DataError, match="manifest"):
        TokenShards.open(tmp_path / "stopped", "train")
    (tmp_path / "stopped" / "train-00001.bin.tmp-12345").write_bytes(b"left by a process that was killed")
    again: list[str] = []

    def recorded(path: Path, tokenizer: Tokenizer):  # type: ignore[no-untyped-def]
        again.append(path.name)
        return original(path, tokenizer)

    monkeypatch.setattr(shards_module, "_encoded_documents", recorded)
    pack(documents, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    finished = sum(documents_before >= end for end in (20, 21, 50))
    assert again == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet", "validation-00000.parquet"][finished:]


def test_what_is_whole_is_not_made_again_and_what_is_altered_is(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(documents, tmp_path / "pack")
    before = contents(tmp_path / "pack")
    original, made = shards_module._encoded_documents, []
    monkeypatch.setattr(shards_module, "_encoded_documents", lambda path, *rest: made.append(path.name) or original(path, *rest))
    pack(documents, tmp_path / "pack")
    assert made == []
    (tmp_path / "pack" / "train-00002.json").write_text("{}")
    (tmp_path / "pack" / "validation-00000.bin").write_bytes(b"x")
    pack(documents, tmp_path / "pack")
    assert made == ["train-00002.parquet", "validation-00000.parquet"]
    assert contents(tmp_path / "pack") == before
    other = Tokenizer(tokenizer().merges[:-1], "gpt4")
    pack_documents(documents, other, CONFIG, tmp_path / "pack", Progress())
    assert len(made) == 2 + 4


@pytest.mark.parametrize("name", ["train-00001.bin", "train-00001.npy", "train-00000.bin"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_an_altered_shard_is_named(documents: Path, tmp_path: Path, name: str, damage: str) -> None:
    pack(documents, tmp_path / "pack")
    path = tmp_path / "pack" / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "cut": data[:-2], "grow": data + b"\0\0", "remove": b""}[damage])
    if damage == "remove":
        path.unlink()
    with pytest.raises(DataError, match=name):
        TokenShards.open(tmp_path / "pack", "train")
    assert TokenShards.open(tmp_path / "pack", "validation").n_tokens > 0


def test_a_damaged_token_shard_is_named_with_the_place_and_it_alone_is_made_again(tmp_path: Path) -> None:
    """B6."""
    words = [f"{i} " + "the quick fox ran over the hills " * 400 for i in range(500)]
    shuffled = [" ".join(random.Random(i).sample(text.split(), len(text.split()))) for i, text in enumerate(words)]
    documents = write_documents(tmp_path / "documents", {"train": [TEXTS[:20], shuffled, TEXTS[20:40]], "validation": VALIDATION})
    config = CONFIG.model_copy(update={"shard_tokens": 2**20})
    manifest = pack(documents, tmp_path / "pack", config)
    before = contents(tmp_path / "pack")
    victim = next(shard for shard in manifest["splits"]["train"]["shards"] if shard["size"] > 2**20)
    path = tmp_path / "pack" / victim["file"]
    data = bytearray(before[path.name])
    data[2**20 + 5] ^= 16
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{path.name}: block at byte 1048576 is not what was written"):
        TokenShards.open(tmp_path / "pack", "train")

    others = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (tmp_path / "pack").glob("*.bin") if p != path}
    path.unlink()
    (tmp_path / "pack" / "manifest.json").unlink()
    assert pack(documents, tmp_path / "pack", config) == manifest
    assert contents(tmp_path / "pack") == before and len(others) == 4
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in others} == others


@pytest.mark.parametrize("name", ["train-00000.json", "manifest.json"])
def test_a_flipped_bit_in_a_record_is_found(documents: Path, tmp_path: Path, name: str) -> None:
    pack(documents, tmp_path / "pack")
    path = tmp_path / "pack" / name
    data = bytearray(path.read_bytes())
    for bit in range(0, 8 * len(data), 97):
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        if name == "manifest.json":
            with pytest.raises(DataError, match=r"manifest\.json: the manifest is not what was written"):
                TokenShards.open(tmp_path / "pack", "train")
        assert read_manifest(path) is None
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(b"")
    before = contents(tmp_path / "pack")
    pack(documents, tmp_path / "pack")
    after = contents(tmp_path / "pack")
    assert read_manifest(path) is not None and {k: v for k, v in after.items() if k != name} == {
        k: v for k, v in before.items() if k != name
    }


def test_swapped_shards_are_found_and_foreign_files_ignored(documents: Path, tmp_path: Path) -> None:
    """B5."""
    pack(documents, tmp_path / "pack")
    (tmp_path / "pack" / "train-99999.bin").write_bytes(b"foreign")
    (tmp_path / "pack" / "notes.txt").write_text("foreign")
    assert TokenShards.open(tmp_path / "pack", "train").n_tokens > 0
    one, other = (tmp_path / "pack" / f"train-0000{i}.bin" for i in (0, 1))
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    with pytest.raises(DataError, match=r"train-00000\.bin"):
        TokenShards.open(tmp_path / "pack", "train")
    one.unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin: missing"):
        TokenShards.open(tmp_path / "pack", "train")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 99}', '{"version": 1}', '{"version": 1, "splits": {"train": 3}, "dtype": "uint16"}']
)
def test_a_broken_manifest_is_an_error(documents: Path, tmp_path: Path, text: str) -> None:
    pack(documents, tmp_path / "pack")
    (tmp_path / "pack" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        TokenShards.open(tmp_path / "pack", "train")


def test_an_unknown_split_or_type_is_an_error(documents: Path, tmp_path: Path) -> None:
    manifest = pack(documents, tmp_path / "pack")
    with pytest.raises(DataError, match="'test'"):
        TokenShards.open(tmp_path / "pack", "test")
    write_manifest(tmp_path / "pack" / "manifest.json", {**manifest, "dtype": "float32"})
    with pytest.raises(DataError, match="float32"):
        TokenShards.open(tmp_path / "pack", "train")


@pytest.mark.parametrize("split", SPLITS)
def test_too_few_tokens_gives_advice_that_helps(tmp_path: Path, split: str) -> None:
    """D3. A corpus smaller than one row."""
    splits = {"train": TRAIN, "validation": VALIDATION, split: [["Only a few words here."]]}
    documents = write_documents(tmp_path / "documents", splits)
    with pytest.raises(DataError, match=f"the {split} documents give") as caught:
        pack(documents, tmp_path / "pack", PackSection(seq_len=256))
    advised = int(str(caught.value.fix).split("pack.seq_len=")[1].split(" ")[0])
    assert 8 <= advised < 256
    manifest = pack(documents, tmp_path / "pack", PackSection(seq_len=advised))
    assert manifest["splits"][split]["rows"] == 1


def test_no_validation_documents_gives_advice(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", {"train": TRAIN, "validation": []})
    with pytest.raises(DataError, match="validation") as caught:
        pack(documents, tmp_path / "pack")
    assert "data.validation_share" in str(caught.value.fix)


def test_missing_or_altered_documents_are_named(documents: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        pack(tmp_path / "nowhere", tmp_path / "pack")
    path = documents / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"train-00001\.parquet"):
        pack(documents, tmp_path / "pack")
    path.unlink()
    with pytest.raises(DataError, match=r"train-00001\.parquet"):
        pack(documents, tmp_path / "pack")


def test_where_nothing_can_be_written_it_says_so(documents: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        pack(documents, tmp_path / "file" / "pack")


def test_a_large_vocabulary_is_stored_in_32_bits(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [dtype_for(size) for size in (300, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]
    merges = [(left, right) for left in range(256) for right in range(256)][:65_300]
    large = Tokenizer(merges, "gpt4")
    assert large.vocab_size > 65_536
    manifest = pack_documents(documents, large, CONFIG, tmp_path / "pack", Progress())
    shards = TokenShards.open(tmp_path / "pack", "validation")
    assert manifest["dtype"] == "uint32" and shards.dtype == np.dtype("<u4")
    stream = shards.read(0, shards.n_tokens)
    assert stream.max() == large.special.end_of_text > 65_535
    assert large.decode(stream) == "".join(text for part in VALIDATION for text in part)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_batches_and_the_encoder_leave_the_bytes_as_they_are(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    pack(documents, tmp_path / "before")
    monkeypatch.setattr(shards_module, "usable_threads", lambda: threads)
    monkeypatch.setattr(shards_module, "_DOCUMENTS_IN_A_BATCH", 3)
    monkeypatch.setattr(fast, "_WORTH_COMPILING", 1)
    again = Tokenizer(tokenizer().merges, tokenizer().pattern)
    pack_documents(documents, again, CONFIG, tmp_path / "after", Progress())
    assert again._fast._compiled is not None
    assert contents(tmp_path / "after") == contents(tmp_path / "before")


@pytest.mark.parametrize("kind", ["characters", "uncased", "added entry"])
def test_other_kinds_of_tokenizers_pack_what_they_encode(documents: Path, tmp_path: Path, kind: str) -> None:
    other = tokenizer().with_token("fox") if kind == "added entry" else train_kind(kind)
    pack_documents(documents, other, CONFIG, tmp_path / "pack", Progress())
    shards = TokenShards.open(tmp_path / "pack", "train")
    texts = [text for part in TRAIN for text in part]
    expected = [token for text in texts for token in (*other.encode(text), other.special.end_of_text)]
    assert shards.read(0, shards.n_tokens).tolist() == expected
    assert shards.n_bytes == sum(len(other.normalise(text).encode("utf-8")) for text in texts)


def train_kind(kind: str) -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerSection(kind=kind, vocab_size=300), Progress(), None)  # type: ignore[arg-type]


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_any_manifest_is_read_or_refused(packed: Path, tmp_path: Path, data: st.DataObject) -> None:
    """D7."""
    if not (tmp_path / "pack").exists():
        shutil.copytree(packed, tmp_path / "pack")
    path = tmp_path / "pack" / "manifest.json"
    if data.draw(st.booleans()):
        path.write_bytes(altered(data, (packed / "manifest.json").read_bytes()))
    else:
        value = replaced(data, read_manifest(packed / "manifest.json"))
        if not isinstance(value, dict):
            return
        write_manifest(path, value)  # as one would who wants it taken
    with contextlib.suppress(DataError):
        TokenShards.open(tmp_path / "pack", "train")
