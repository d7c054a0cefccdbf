import random
from pathlib import Path

import pytest

from luthier.runs.checksums import BLOCK, Checksums, checksums, damage
from luthier.runs.store import StageRecord, Store, describe_files, stage_key

SIZE = 3 * BLOCK + 1000


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(0).randbytes(SIZE)


def test_sums_do_not_depend_on_the_pieces(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    expected = checksums(tmp_path / "x").sums()
    assert len(expected["crc32"]) == 8 * 4
    for cut in (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5, SIZE):
        ours = Checksums()
        ours.update(content[:cut])
        ours.update(b"")
        ours.update(content[cut:])
        assert (ours.size, ours.sums()) == (SIZE, expected)


@pytest.mark.parametrize("position", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 7, SIZE - 1])
def test_the_first_bad_block_is_named(content: bytes, tmp_path: Path, position: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    found = checksums(path)
    assert damage(path, found.size, found.sums()) is None
    altered = bytearray(content)
    altered[position] ^= 4
    altered[-1] ^= 64
    path.write_bytes(altered)
    assert damage(path, found.size, found.sums()) == f"{path}: block at byte {position // BLOCK * BLOCK} is not what was written"
    without_blocks = {"sha256": found.sums()["sha256"]}
    assert damage(path, found.size, without_blocks) == f"{path}: its content is not what was written (SHA-256 differs)"
    path.write_bytes(content[:position])
    assert damage(path, found.size, found.sums()) == f"{path}: {position} bytes, {SIZE} were written"
    path.unlink()
    assert damage(path, found.size, found.sums()) == f"{path}: missing"
    path.mkdir()
    assert damage(path, found.size, found.sums()) == f"{path}: missing"


def test_a_flipped_bit_in_a_stage_record_makes_the_stage_unfinished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = stage_key("data", 1, {"a": 1}, {})
    directory = store.directory("data", key)
    directory.mkdir(parents=True)
    (directory / "x.bin").write_bytes(b"12345")
    store.finish(StageRecord("data", key, 1, {"a": 1}, {}, "f", 1.0, {}, describe_files(directory)))
    path = directory / "stage.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        assert store.finished("data", key) is None, bit
    path.write_bytes(whole)
    assert store.finished("data", key) is not None
