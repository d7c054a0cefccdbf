import errno
import os
from pathlib import Path

import pytest

from luthier.errors import LockedError, StorageError
from luthier.runs.files import atomic_file, fingerprint, make_directory, read_json, storage_errors, write_json
from luthier.runs.lock import locked
from luthier.runs.metrics import MetricsWriter, read_metrics
from luthier.runs.progress import Bar, PlainProgress, duration, number
from luthier.runs.store import StageRecord, Store, damaged_files, describe_files, stage_key


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only")])
def test_disk_errors_are_one_sentence(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught, storage_errors(tmp_path):
        raise OSError(code, os.strerror(code), str(tmp_path))
    assert caught.value.exit_code == 1 and str(tmp_path) in str(caught.value)


def test_a_file_where_a_directory_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        make_directory(tmp_path / "file" / "runs")


def test_fingerprint_ignores_the_order_of_keys_only() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1, "b": [1, 2]}) != fingerprint({"a": 1, "b": [2, 1]})


def test_a_second_process_is_refused_and_a_dead_one_forgotten(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError, match=str(os.getpid())) as caught, locked(tmp_path):
        pass
    assert caught.value.exit_code == 3
    with locked(tmp_path):
        assert (tmp_path / "lock").exists()


def test_metrics_are_cut_back_to_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1, "loss": 2.0})
    offset = writer.offset()
    writer.write({"step": 2, "loss": float("nan")})
    assert read_metrics(path)[-1] == {"step": 2, "loss": None}
    writer.close()
    again = MetricsWriter(path, offset)
    again.write({"step": 2, "loss": 1.5})
    again.close()
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [row["loss"] for row in read_metrics(path)] == [2.0, 1.5]


def test_store_finds_only_whole_outputs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = stage_key("data", 1, {"a": 1}, {})
    directory = make_directory(store.directory("data", key))
    (directory / "x.bin").write_bytes(b"12345")
    assert store.finished("data", key) is None
    record = StageRecord("data", key, 1, {"a": 1}, {}, "f", 1.0, {}, describe_files(directory))
    store.finish(record)
    assert store.finished("data", key) == record
    (directory / "x.bin").write_bytes(b"1234X")
    assert damaged_files(directory, record.files) == [f"{directory / 'x.bin'}: block at byte 0 is not what was written"]
    (directory / "x.bin").write_bytes(b"1")
    assert store.finished("data", key) is None


@pytest.mark.parametrize("change", [{"version": 2}, {"settings": {"a": 2}}, {"inputs": {"data": "g"}}, {"stage": "pack"}])
def test_a_key_depends_on_everything(change: dict) -> None:
    base = {"stage": "data", "version": 1, "settings": {"a": 1}, "inputs": {"data": "f"}}
    assert stage_key(**base) != stage_key(**{**base, **change})


def test_progress_line_has_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress(every_seconds=0.0).bar("pack", 100, "tokens") as bar:
        bar.advance(50)
        bar.note("x 1")
        bar.advance(25)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("pack:  50% 50/100 tokens, ") and lines[0].endswith(" left")
    assert lines[1].endswith("x 1") and "/s, " in lines[1]


def test_time_left_counts_this_process_only() -> None:
    bar = Bar("x", 100, "", done=90)
    assert bar.seconds_left is None
    bar.advance(5)
    assert bar.seconds_left is not None and bar.seconds_left < 60


def test_numbers_and_durations() -> None:
    assert [number(x) for x in (0, 512, 3400, 34_000, 1_234_567, 2e9)] == ["0", "512", "3400", "34k", "1.2M", "2G"]
    assert [duration(x) for x in (5.2, 185, 7620, 273_600)] == ["5s", "3m05s", "2h07m", "3d04h"]


def test_a_manifest_notices_any_flipped_bit(tmp_path: Path) -> None:
    from luthier.runs.manifest import read_manifest, write_manifest

    path = tmp_path / "MANIFEST.json"
    value = {"format": 1, "files": {"a": {"bytes": 3, "sha256": "00"}}, "name": "ü", "share": 0.1}
    write_manifest(path, value)
    assert read_manifest(path) == value
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        assert read_manifest(path) is None, bit
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_manifest(path) is None, length
    path.unlink()
    assert read_manifest(path) is None
