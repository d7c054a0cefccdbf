"""The door to encoding gives the same ids whichever encoder stands behind it."""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiktoken

from luthier.runs import compiling
from luthier.runs.progress import Progress
from luthier.tokenizer import fast
from luthier.tokenizer.fast import FastEncoder
from luthier.tokenizer.gigatoken_encoder import GigatokenEncoder
from luthier.tokenizer.patterns import PATTERNS
from tests.tokenizer.corpus import TEXTS, tokenizer

BYTES = [bytes([byte]) for byte in range(256)]
DAMAGED = [b"the\xffthe", b"\xed\xa0\x80 the\xe2", b"", b"\xf0\x9f\x8e\x00", b"\xff\xfe\xfd", *(text.encode("utf-8") for text in TEXTS)]


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def entries() -> list[bytes]:
    return [tokenizer().token_bytes[token] for token in range(tokenizer().special.end_of_text)]


@pytest.fixture
def plain() -> FastEncoder:
    return FastEncoder("gpt4", entries())


@pytest.fixture
def compiled() -> FastEncoder:
    encoder = FastEncoder("gpt4", entries())
    encoder.prepare(2**30, Progress())
    assert encoder._compiled is not None and encoder.not_compiled is None
    return encoder


def buffers(documents: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    borders = np.array([0, *itertools.accumulate(map(len, documents))], dtype=np.int64)
    return np.frombuffer(b"".join(documents), np.uint8), borders[:-1], borders[1:]


def test_both_encoders_give_the_same(plain: FastEncoder, compiled: FastEncoder) -> None:
    for text in TEXTS:
        assert plain.encode(text) == compiled.encode(text) == tokenizer().encode_readable(text)
    for one, other in zip(plain.encode_many(TEXTS), compiled.encode_many(TEXTS), strict=True):
        assert one.dtype == other.dtype == np.uint32 and np.array_equal(one, other)
    for ending in (-1, 500):
        ids, ends = plain.encode_buffers(*buffers(DAMAGED), ending)
        other_ids, other_ends = compiled.encode_buffers(*buffers(DAMAGED), ending)
        assert ids.dtype == other_ids.dtype == np.uint32 and np.array_equal(ids, other_ids)
        assert ends.dtype == other_ends.dtype == np.int64 and np.array_equal(ends, other_ends)
    assert plain._compiled is None


def test_little_text_is_not_worth_loading_a_compiler_and_much_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_WORTH_COMPILING", 1000)
    encoder = FastEncoder("gpt4", entries())
    text = "the river rose " * 10
    expected = encoder.encode(text)
    assert encoder._compiled is None and encoder.not_compiled
    for _ in range(8):
        assert encoder.encode(text) == expected
    assert encoder._compiled is not None and encoder.not_compiled is None


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_in_order(monkeypatch: pytest.MonkeyPatch, compiled: FastEncoder, threads: int) -> None:
    texts = TEXTS * 40
    expected = [tokenizer().encode_readable(text) for text in TEXTS] * 40
    monkeypatch.setattr(fast, "usable_threads", lambda: threads)
    monkeypatch.setattr(fast, "_WORTH_THREADS", 1)
    monkeypatch.setattr(fast, "_TASK_CHARACTERS", 500)
    for encoder in (compiled, FastEncoder("gpt4", entries())):
        assert [ids.tolist() for ids in encoder.encode_many(texts)] == expected
        assert encoder.encode_many([]) == [] and [ids.tolist() for ids in encoder.encode_many(["", "a", ""])] == [[], [97], []]


def test_without_a_compiler_tiktoken_encodes_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "luthier.tokenizer.encoding", None)
    encoder, said = FastEncoder("gpt4", entries()), Said()
    encoder.prepare(2**30, said)
    assert encoder._compiled is None
    assert [line for line in said.lines if "tiktoken encodes" in line and "ModuleNotFoundError" in line] == said.lines != []
    assert [encoder.encode(text) for text in TEXTS] == [tokenizer().encode_readable(text) for text in TEXTS]
    quiet = Said()
    FastEncoder("gpt4", entries()).prepare(1000, quiet)
    assert quiet.lines == []


def test_entries_that_are_not_by_merges_are_encoded_by_tiktoken() -> None:
    encoder, said = FastEncoder("gpt4", [*BYTES, b"abc"]), Said()
    encoder.prepare(2**30, said)
    assert encoder.encode("abc abcd") == [256, 32, 97, 98, 99, 100]
    assert "not what two earlier ones merge to" in said.lines[-1]


def test_compiling_is_said_when_it_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    for kept in (True, False):
        monkeypatch.setattr(compiling, "_is_kept", lambda _function, kept=kept: kept)
        said = Said()
        FastEncoder("gpt4", entries()).prepare(2**30, said)
        assert said.lines == ([] if kept else [compiling.COMPILING])


class _Pretend:
    """Stands for gigatoken's class: what it needs of it, by tiktoken, wrong where it is told to be."""

    wrong = False

    def __init__(self, path: Path, pretokenizer: str) -> None:
        lines = (line.split() for line in Path(path).read_text().splitlines())
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        self._encoding = tiktoken.Encoding("pretend", pat_str=PATTERNS[pretokenizer], mergeable_ranks=ranks, special_tokens={})  # type: ignore[index]

    @classmethod
    def from_tiktoken(cls, path: Path, pretokenizer: str) -> _Pretend:
        return cls(path, pretokenizer)

    def encode_batch(self, documents: list[bytes], parallel: bool) -> SimpleNamespace:
        assert not parallel
        ids = [self._encoding.encode_ordinary(data.decode("utf-8")) for data in documents]
        if self.wrong:
            ids = [[*part[:-1], 0] if "\x0c" in data.decode("utf-8") else part for part, data in zip(ids, documents, strict=True)]
        borders = np.array([0, *itertools.accumulate(map(len, ids))], dtype=np.int64)
        content = np.array([token for part in ids for token in part], dtype=np.uint32)
        return SimpleNamespace(layout=SimpleNamespace(offsets=SimpleNamespace(data=borders), content=SimpleNamespace(data=content)))


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("pattern", ["gpt4", "digits"])
def test_gigatoken_encodes_only_where_it_gives_the_same(monkeypatch: pytest.MonkeyPatch, pattern: str, wrong: bool) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", SimpleNamespace(Tokenizer=_Pretend))
    monkeypatch.setattr(_Pretend, "wrong", wrong)
    encoder = FastEncoder(pattern, entries())  # type: ignore[arg-type]
    encoder.prepare(2**30, Progress())
    assert encoder._compiled is not None
    assert isinstance(encoder._buffers, GigatokenEncoder) == (pattern == "gpt4" and not wrong)
    for ending in (-1, 500):
        for documents in (DAMAGED, [text.encode("utf-8") for text in TEXTS], [b"", b"a", b""], []):
            ids, ends = encoder.encode_buffers(*buffers(documents), ending)
            expected_ids, expected_ends = encoder._compiled.encode_buffers(*buffers(documents), ending)
            assert ids.dtype == np.uint32 and np.array_equal(ids, expected_ids)
            assert ends.dtype == np.int64 and np.array_equal(ends, expected_ends)


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_gigatoken_itself_is_identical(pattern: str) -> None:
    pytest.importorskip("gigatoken")
    encoder = FastEncoder(pattern, entries())  # type: ignore[arg-type]
    encoder.prepare(2**30, Progress())
    assert isinstance(encoder._buffers, GigatokenEncoder)
    for one, other in zip(encoder.encode_many(TEXTS * 9), [encoder.encode(text) for text in TEXTS * 9], strict=True):
        assert one.tolist() == other


@pytest.mark.slow
def test_a_cache_folder_that_cannot_be_written_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a folder cannot be made in here")
    code = (
        "from luthier.tokenizer.encoding import CompiledEncoder\n"
        "tokens = [bytes([byte]) for byte in range(256)] + [b'th', b'the']\n"
        "assert CompiledEncoder('gpt4', tokens).encode('the then') == [257, 32, 257, 110]\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_door_loads_no_encoder() -> None:
    code = "import sys, luthier.tokenizer.tokenizer; sys.exit(any(name in sys.modules for name in ('numba', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
