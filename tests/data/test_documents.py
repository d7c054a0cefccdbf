from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.config.data import SourceConfig
from luthier.data import chain, documents
from luthier.data.parquet import read_rows
from luthier.data.rules.clean import document_id
from luthier.data.shards import document_count, read_texts, text_bytes
from luthier.data.split import Split, is_held_out
from luthier.errors import DataError, StorageError
from luthier.runs.manifest import read_manifest

Build = Callable[..., tuple[dict[str, Any], Path]]


def _tree(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def _sides(directory: Path) -> dict[str, str]:
    return {text: split for split in ("train", "validation") for text in read_texts(directory, split)}


def test_manifest_and_shards_agree(build: Build, stories: Path) -> None:
    manifest, directory = build(stories, shard_bytes=5000)
    sides = _sides(directory)
    assert len(sides) == 300
    assert set(sides.values()) == {"train", "validation"}
    train = manifest["splits"]["train"]
    assert len(train["shards"]) > 2
    for split, entry in manifest["splits"].items():
        texts = [text for text, side in sides.items() if side == split]
        assert entry["documents"] == document_count(directory, split) == len(texts)
        assert entry["bytes"] == text_bytes(directory, split) == sum(len(text.encode()) for text in texts)
        assert entry["documents"] == sum(shard["documents"] for shard in entry["shards"])
    assert manifest == read_manifest(directory / "manifest.json")
    row = next(read_rows(directory / "train-00000.parquet"))
    assert row["id"] == document_id(row["text"])
    assert (row["source"], row["licence"]) == ("stories.jsonl", "unknown")
    assert sorted(path.name for path in directory.iterdir() if path.suffix != ".parquet") == ["examples.json", "manifest.json"]


def test_the_same_input_gives_the_same_bytes(build: Build, stories: Path) -> None:
    assert _tree(build(stories, to="a", shard_bytes=9000)[1]) == _tree(build(stories, to="b", shard_bytes=9000)[1])


def test_a_finished_directory_is_not_done_again(build: Build, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, directory = build(stories)
    monkeypatch.setattr(documents, "find_clusters", lambda *_, **__: pytest.fail("done again"))
    assert build(stories)[0] == manifest
    monkeypatch.undo()
    (directory / "train-00000.parquet").write_bytes(b"damaged")
    assert build(stories)[0] == manifest
    assert document_count(directory, "train") == len(list(read_texts(directory, "train")))


def test_adding_data_never_moves_a_document(build: Build, stories: Path, tmp_path: Path) -> None:
    before = _sides(build(stories, to="a", validation_share=0.1)[1])
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps({"text": f"Entirely new text {i}"}) + "\n" for i in range(100)))
    after = _sides(build(more, stories, to="b", validation_share=0.1)[1])
    assert {text: after[text] for text in before} == before
    assert len(after) == 400


def test_the_seed_changes_the_split_and_nothing_else(build: Build, stories: Path) -> None:
    one, two = (_sides(build(stories, to=f"s{seed}", seed=seed, validation_share=0.2)[1]) for seed in (1, 2))
    assert set(one) == set(two)
    assert one != two


def test_duplicates_are_dropped_over_sources_unless_told(build: Build, stories: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(stories.read_text().upper().replace('{"TEXT"', '{"text"') + '{"text": "new"}\n')
    manifest, _ = build(stories, copy)
    rows = manifest["sources"]
    assert sum(source["documents"] for source in rows) == 301
    assert sum(source["dropped"].get("duplicate", 0) for source in rows) == 300
    assert all(source["documents"] + source["dropped"].get("duplicate", 0) == source["records"] for source in rows)
    manifest, _ = build(stories, copy, dedup=False, near={"enabled": False}, to="all")
    assert [source["documents"] for source in manifest["sources"]] == [300, 301]


def test_filters_are_counted(build: Build, tmp_path: Path, stories: Path) -> None:
    rows = [{"text": "x"}, {"text": " \n"}, {"no": "text"}, {"text": " ".join(map(str, range(500)))}, {"text": "long enough to stay"}]
    (tmp_path / "f.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\nnot json\n")
    manifest, _ = build(stories, tmp_path / "f.jsonl", min_chars=5, max_chars=1000)
    source = manifest["sources"][1]
    assert source["dropped"] == {"bad_json": 1, "empty": 1, "no_text": 1, "too_short": 1}
    assert source["repaired"] == {"cut_into_parts": 1}
    assert (source["records"], source["documents"]) == (5, 3)


def test_an_interrupted_build_goes_on_where_it_was(build: Build, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": f"Other {i}"}) + "\n" for i in range(50)))
    whole = _tree(build(stories, other, to="whole")[1])
    real, read = chain.read_unit, []

    def stopping(source: SourceConfig, *args: Any) -> Any:
        read.append(source.label)
        for index, record in enumerate(real(source, *args)):
            if source.label == "other.jsonl" and index == 20:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(chain, "read_unit", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(stories, other, to="cut")
    assert read == ["stories.jsonl", "other.jsonl"]  # the larger first
    monkeypatch.setattr(chain, "read_unit", lambda source, *args: (read.append(source.label), real(source, *args))[1])
    assert _tree(build(stories, other, to="cut")[1]) == whole
    assert read == ["stories.jsonl", "other.jsonl", "other.jsonl"]


def test_stale_shards_of_another_attempt_go(build: Build, stories: Path) -> None:
    build(stories, shard_bytes=3000)
    manifest, directory = build(stories)
    listed = {shard["file"] for split in manifest["splits"].values() for shard in split["shards"]}
    assert {path.name for path in directory.glob("*-*.parquet")} == listed


@pytest.mark.parametrize("paragraph", ["A sentence of some words. " * 12 + "\n\n", "A line of some words\n", "word "])
def test_one_text_file_is_cut_so_that_some_is_held_out(build: Build, tmp_path: Path, paragraph: str) -> None:
    text = "".join(f"{index} {paragraph}" for index in range(1_200_000 // len(paragraph)))
    (tmp_path / "book.txt").write_text(text)
    manifest, directory = build(tmp_path / "book.txt")
    assert manifest["sources"][0]["documents"] >= 20
    held = text_bytes(directory, "validation")
    assert 0.003 < held / (held + text_bytes(directory, "train")) < 0.1
    together = "".join(text for split in manifest["splits"] for text in read_texts(directory, split))
    assert sorted("".join(together.split())) == sorted("".join(text.split()))


def test_few_paragraphs_are_enough_and_less_gets_advice(build: Build, tmp_path: Path) -> None:
    """D3."""
    (tmp_path / "short.txt").write_text("One.\n\nTwo.\n\nThree.")
    manifest, directory = build(tmp_path / "short.txt", to="a")
    assert [document_count(directory, split) for split in ("train", "validation")] == [2, 1]
    assert manifest["sources"][0]["documents"] == 3
    (tmp_path / "one.txt").write_text("Just this.")
    with pytest.raises(DataError, match=r"10 bytes in 1 document\n  add more text") as raised:
        build(tmp_path / "one.txt", to="b")
    assert raised.value.exit_code == 2


def test_missing_fields_are_named(build: Build, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"story": "s", "id": 1}\n' * 30)
    with pytest.raises(DataError, match=r"no record has the field `text`; the fields are `story`, `id`\n.*text=\"\{story\}\""):
        build(tmp_path / "f.jsonl")
    with pytest.raises(DataError, match="no record has the field `title`, `body`"):
        build(SourceConfig(path=str(tmp_path / "f.jsonl"), text="{title} {body}"))


@pytest.mark.parametrize(("name", "data"), [("empty.txt", b""), ("binary.txt", b"\x7fELF\0"), ("e.jsonl", b"\n\n"), ("x.parquet", b"PAR1")])
def test_a_source_without_documents_gets_advice(build: Build, tmp_path: Path, name: str, data: bytes) -> None:
    """D1."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=r"no readable document \(.*\)\n  give .txt"):
        build(tmp_path / name)


def test_an_empty_folder_and_no_sources_get_advice(build: Build, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="no readable document"):
        build(tmp_path / "folder")
    with pytest.raises(DataError, match=r"data\.sources is empty"):
        build()


def test_a_full_disk_is_one_sentence(build: Build, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StorageError, match="the disk is full"):
        build(stories)
    assert not list((tmp_path / "out").rglob("*.tmp-*"))


@pytest.mark.parametrize("count", [2, 3, 19, 50, 3000])
@pytest.mark.parametrize("share", [1e-9, 0.02, 0.49])
def test_no_side_is_ever_empty(count: int, share: float) -> None:
    split = Split(3, share)
    ids = [document_id(str(index)) for index in range(count)]
    for identity in ids:
        split.look(identity, 10)
    split.decide()
    sides = [split.side(identity) for identity in ids]
    assert 0 < sides.count("validation") < count
    if count == 3000 and share == 0.02:
        assert sides == ["validation" if is_held_out(3, identity, share) else "train" for identity in ids]
        assert 30 < sides.count("validation") < 100


def test_a_flipped_bit_in_a_shard_or_its_manifest_is_found(build: Build, stories: Path) -> None:
    _, directory = build(stories)
    for name in ("validation-00000.parquet", "manifest.json"):
        path = directory / name
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 8 * len(whole) // 40):
            altered = bytearray(whole)
            altered[bit // 8] ^= 1 << bit % 8
            path.write_bytes(altered)
            with pytest.raises(DataError, match=rf"{name}: (block at byte 0|the manifest) is not what was written"):
                next(read_texts(directory, "validation"))
        path.write_bytes(whole)


def test_swapped_shards_are_found_and_foreign_files_ignored(build: Build, stories: Path) -> None:
    """B5."""
    _, directory = build(stories, shard_bytes=5000)
    (directory / "train-99999.parquet").write_bytes(b"foreign")
    texts = list(read_texts(directory, "train"))
    one, other = directory / "train-00000.parquet", directory / "train-00001.parquet"
    one.rename(directory / "x")
    other.rename(one)
    (directory / "x").rename(other)
    with pytest.raises(DataError, match=r"train-00000\.parquet"):
        next(read_texts(directory, "train"))
    one.unlink()
    with pytest.raises(DataError, match=r"train-00000\.parquet: missing"):
        next(read_texts(directory, "train"))
    build(stories, shard_bytes=5000)
    assert list(read_texts(directory, "train")) == texts


def test_a_damaged_part_of_an_interrupted_build_is_read_again(build: Build, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _tree(build(stories, to="whole")[1])

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(documents, "find_clusters", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(stories, to="cut")
    monkeypatch.undo()
    (part,) = stories.parent.glob("cut/parts/part-*.parquet")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert _tree(build(stories, to="cut")[1]) == whole


def test_a_damaged_shard_is_named(build: Build, stories: Path) -> None:
    _, directory = build(stories)
    (directory / "validation-00000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"validation-00000\.parquet: 7 bytes, \d+ were written"):
        list(read_texts(directory, "validation"))
    with pytest.raises(DataError, match=r"nowhere/manifest\.json: no document shards here"):
        document_count(directory / "nowhere", "train")


def test_a_text_that_repeats_itself_is_not_on_both_sides(build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word and " * 200_000)
    try:
        _, directory = build(tmp_path / "a.txt")
    except DataError as error:
        assert "2 different documents" in str(error)
        return
    sides = [set(read_texts(directory, split)) for split in ("train", "validation")]
    assert all(sides) and sides[0].isdisjoint(sides[1])


def test_one_text_many_times_cannot_be_split(build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "always the same"}\n' * 50)
    for dedup in (True, False):
        with pytest.raises(DataError, match="2 different documents or more"):
            build(tmp_path / "a.jsonl", dedup=dedup)
