"""Conversations in rows: all there once, whole, supervised by their mask alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.pack.conversations import ConversationRows, fit, pack_conversations
from luthier.pack.loader import IGNORE_INDEX, Loader
from luthier.runs.manifest import read_manifest, write_manifest
from luthier.runs.progress import Progress
from luthier.tasks.conversation import Conversation, Message
from luthier.tokenizer.chat import parse, render
from tests.pack.corpus import tokenizer
from tests.tokenizer.kinds import tokenizer_of

contents = st.text("abc é🎻<|user|>", max_size=12)
roles = st.sampled_from(["system", "user", "assistant"])
conversations = st.lists(
    st.lists(st.builds(Message, roles, contents), min_size=1, max_size=4).map(lambda messages: Conversation(tuple(messages), "s", "i")),
    min_size=1,
    max_size=12,
)


def talk(*contents: str) -> Conversation:
    return Conversation(tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(contents)), "s", "i")


def split_row(tokens: list[int], doc_ids: list[int]) -> list[list[int]]:
    stretches: list[list[int]] = []
    for position, token in enumerate(tokens):
        if position == 0 or doc_ids[position] != doc_ids[position - 1]:
            stretches.append([])
        stretches[-1].append(token)
    return stretches


@settings(max_examples=80, deadline=None)
@given(conversations, st.integers(8, 40))
def test_rows_hold_each_kept_conversation_once(tmp_path_factory: pytest.TempPathFactory, given_: list[Conversation], seq_len: int) -> None:
    directory, ours = tmp_path_factory.mktemp("rows"), tokenizer()
    fitted = [fit(conversation.messages, ours, seq_len + 1) for conversation in given_]
    kept = [ids for ids, _, _ in fitted if ids]
    if not kept:
        with pytest.raises(DataError):
            pack_conversations(given_, ours, seq_len, directory, "train")
        return
    report = pack_conversations(given_, ours, seq_len, directory, "train")
    rows = ConversationRows.open(directory, "train")
    assert rows.seq_len == seq_len and rows.n_rows == report["rows"]
    found: list[list[int]] = []
    supervised = 0
    for index in range(rows.n_rows):
        inputs, targets, doc_ids = rows.row(index)
        assert inputs.shape == targets.shape == doc_ids.shape == (seq_len,)
        assert inputs.dtype == targets.dtype == np.int64 and doc_ids.dtype == np.int32
        assert (targets != IGNORE_INDEX).any()
        supervised += int((targets != IGNORE_INDEX).sum())
        tokens = np.asarray(rows._tokens[index]).astype(np.int64)
        assert np.array_equal(tokens[:-1], inputs)
        assert ((targets == IGNORE_INDEX) | (targets == tokens[1:])).all()
        stretches = split_row(tokens.tolist(), np.asarray(rows._documents[index]).tolist())
        described = [tokens[part["first_token"] :][: part["tokens"]].tolist() for part in rows.describe(index)]
        assert described == [stretch for stretch in stretches if set(stretch) != {ours.special.pad}]
        start = 0
        for stretch in stretches:
            if set(stretch) == {ours.special.pad}:
                assert stretch is stretches[-1]
                continue
            _, mask = render(parse(stretch, ours), ours)
            expected = [token if counts else IGNORE_INDEX for token, counts in zip(stretch, mask, strict=True)][1:]
            assert targets[start : start + len(expected)].tolist() == expected
            start += len(stretch)
            found.append(stretch)
    assert sorted(found) == sorted(kept)
    assert report == {
        "conversations": len(given_),
        "rows": rows.n_rows,
        "truncated": sum(bool(ids) and not whole for ids, _, whole in fitted),
        "dropped": len(given_) - len(kept),
        "too_long": [{"place": "", "what": "cut" if ids else "left out"} for ids, _, whole in fitted if not whole][:5],
        "supervise": "assistant",
        "supervised_tokens": supervised,
        "tokens": sum(map(len, kept)),
        "supervised_fraction": round(supervised / sum(map(len, kept)), 4),
        "padding_fraction": round(1 - sum(map(len, kept)) / (rows.n_rows * (seq_len + 1)), 4),
    }
    assert rows.report == report


@settings(max_examples=200, deadline=None)
@given(conversations, st.integers(1, 40))
def test_what_is_cut_ends_with_a_whole_answer(given_: list[Conversation], capacity: int) -> None:
    for conversation in given_:
        messages = list(conversation.messages)
        ids, mask, whole = fit(messages, tokenizer(), capacity)
        assert len(ids) == len(mask) <= capacity
        if not ids:
            answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
            assert not answers or len(render(messages[: answers[0] + 1], tokenizer())[0]) > capacity
            continue
        kept = parse(ids, tokenizer())
        assert (ids, mask) == render(kept, tokenizer())
        assert kept == messages[: len(kept)] and any(mask) and whole == (kept == messages)
        if not whole:
            assert kept[-1].role == "assistant"


def test_the_same_conversations_give_the_same_bytes(tmp_path: Path) -> None:
    given_ = [talk("a" * i, "b" * (i % 7)) for i in range(30)]
    for name in ("a", "b"):
        pack_conversations(given_, tokenizer(), 40, tmp_path / name, "train")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_rows_feed_the_loader(tmp_path: Path) -> None:
    pack_conversations([talk("a" * i, "b") for i in range(30)], tokenizer(), 16, tmp_path, "train")
    rows = ConversationRows.open(tmp_path, "train")
    batch = Loader(rows, 3, seed=1).batch(0)
    assert batch.inputs.shape == (3, 16) and batch.doc_ids is not None and 0 < batch.n_loss_tokens < 48
    for index in (-1, rows.n_rows):
        with pytest.raises(IndexError):
            rows.row(index)


def test_many_left_out_is_said(tmp_path: Path) -> None:
    """C5. Samples longer than the context are counted."""

    class Recorder(Progress):
        warnings: list[str] = []  # noqa: RUF012

        def warn(self, text: str) -> None:
            self.warnings.append(text)

    recorder = Recorder()
    many = [talk("a", "b")] * 200
    pack_conversations([*many, talk("x" * 99, "y")], tokenizer(), 16, tmp_path, "train", recorder)
    assert recorder.warnings == []
    pack_conversations([*many, *[talk("x" * 99, "y")] * 5, talk("a", "b", "x" * 99, "c")], tokenizer(), 16, tmp_path, "train", recorder)
    assert len(recorder.warnings) == 1
    assert "1 are cut" in recorder.warnings[0] and "5 left out" in recorder.warnings[0] and "pack.seq_len" in recorder.warnings[0]


@pytest.mark.parametrize("given_", [[], [talk("only a question")], [talk("q" * 50, "a" * 50)]])
def test_nothing_to_learn_from_is_an_error(tmp_path: Path, given_: list[Conversation]) -> None:
    with pytest.raises(DataError, match="no validation conversation is left"):
        pack_conversations(given_, tokenizer(), 16, tmp_path, "validation")


@pytest.mark.parametrize("name", ["train-tokens.npy", "train-mask.npy", "train-documents.npy", "train-conversations.json"])
def test_altered_rows_are_named(tmp_path: Path, name: str) -> None:
    pack_conversations([talk("a", "b")], tokenizer(), 16, tmp_path, "train")
    path = tmp_path / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match=name):
        ConversationRows.open(tmp_path, "train")
    path.unlink()
    with pytest.raises(DataError, match=name):
        ConversationRows.open(tmp_path, "train")


@pytest.mark.parametrize("change", [{"files": {}}, {"files": None}, {"version": 1}])
def test_a_broken_manifest_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    pack_conversations([talk("a", "b")], tokenizer(), 16, tmp_path, "train")
    path = tmp_path / "train-conversations.json"
    write_manifest(path, {**(read_manifest(path) or {}), **change})
    with pytest.raises(DataError, match=r"train-conversations\.json"):
        ConversationRows.open(tmp_path, "train")


def test_the_loss_counts_all_answers_the_last_or_everything() -> None:
    messages = talk("q", "first", "r", "second").messages
    ours = tokenizer()
    ids, mask = render(messages, ours)
    assert fit(messages, ours, 99, "assistant")[:2] == (ids, mask)
    begins = len(render(messages[:3], ours)[0])
    assert fit(messages, ours, 99, "last")[:2] == (ids, [False] * begins + mask[begins:])
    assert fit(messages, ours, 99, "all")[:2] == (ids, [False] + [True] * (len(ids) - 1))
    ends = [token == ours.special.end_of_turn and learned for token, learned in zip(ids, mask, strict=True)]
    assert sum(ends) == 2 and fit(messages, ours, 99, "end")[:2] == (ids, ends)
    cut = len(ids) - 1
    first = len(render(messages[:2], ours)[0])
    for supervise in ("assistant", "last", "end", "all"):
        shorter, learned, whole = fit(messages, ours, cut, supervise)
        assert (shorter, whole) == (ids[:first], False) and learned[-1] and shorter[-1] == ours.special.end_of_turn


@pytest.mark.parametrize(("kind", "layout"), [("bpe", "back"), ("bpe", "ids"), ("bpe", "shared"), ("uncased drop", "shared")])
def test_every_layout_is_rendered_as_a_whole(tmp_path: Path, kind: str, layout: str) -> None:
    """What opens and ends a conversation stands there once, whatever is cut."""
    ours = tokenizer_of(kind, layout)
    given_ = [talk("abc", "de"), talk("a", "b", "c", "d"), Conversation((Message("system", "s"), *talk("a", "b").messages), "s", "i")]
    for one in given_:
        ids, mask = render(one.messages, ours)
        assert fit(one.messages, ours, len(ids)) == (ids, mask, True)
        shorter = fit(one.messages, ours, len(ids) - 1)
        kept = one.messages[:2] if len(one.messages) == 4 else ()
        assert shorter == ((*render(kept, ours), False) if kept else ([], [], False))
    pack_conversations(given_, ours, 40, tmp_path, "train")
    ConversationRows.open(tmp_path, "train").require_mask(ours)


def test_no_row_longer_than_the_context_loses_its_end_of_turn(tmp_path: Path) -> None:
    """C5. 541 of them, as there were once."""
    ours, given_ = tokenizer(), [talk("q", "a" * (i % 40 + 1), "r", "b" * 60) for i in range(541)]
    report = pack_conversations(given_, ours, 64, tmp_path, "train")
    assert report["truncated"] == 541 and report["dropped"] == 0
    rows = ConversationRows.open(tmp_path, "train")
    ends = 0
    for row in range(rows.n_rows):
        for part in rows.describe(row):
            tokens = np.asarray(rows._tokens[row])[part["first_token"] :][: part["tokens"]]
            learned = np.asarray(rows._mask[row])[part["first_token"] :][: part["tokens"]]
            assert tokens[-1] == ours.special.end_of_turn and learned[-1]
            ends += 1
    assert ends == 541


def test_what_is_too_long_is_named(tmp_path: Path) -> None:
    places = [Conversation(talk("x" * 99, "y").messages, "s", "i", f"file.jsonl:{line}") for line in range(1, 9)]
    report = pack_conversations([talk("a", "b"), *places], tokenizer(), 16, tmp_path, "train")
    assert report["too_long"] == [{"place": f"file.jsonl:{line}", "what": "left out"} for line in range(1, 6)]


@pytest.mark.parametrize("supervise", ["assistant", "last", "end", "all"])
def test_right_masks_pass(tmp_path: Path, supervise: Any) -> None:
    given_ = [talk("a" * i, "b" * (i % 7), "c", "d") for i in range(1, 30)]
    report = pack_conversations(given_, tokenizer(), 64, tmp_path, "train", None, supervise)
    assert report["supervise"] == supervise
    ConversationRows.open(tmp_path, "train").require_mask(tokenizer(), supervise)


@pytest.mark.parametrize("damage", ["question", "opening", "empty", "padding"])
def test_a_mask_that_covers_a_prompt_or_nothing_is_refused(tmp_path: Path, damage: str) -> None:
    ours = tokenizer()
    pack_conversations([talk("question", "answer")] * 3, ours, 60, tmp_path, "train")
    rows = ConversationRows.open(tmp_path, "train")
    tokens, mask = np.array(rows._tokens), np.array(rows._mask)
    last = rows.n_rows - 1
    if damage == "question":
        mask[last, 1] = True
    elif damage == "opening":
        mask[last, int(np.argmax(tokens[last] == ours.special.assistant))] = True
    elif damage == "empty":
        mask[last] = False
    else:
        mask[last, -1] = True
    wrong = ConversationRows([tokens, mask, np.array(rows._documents)], {"report": {}}, "train-tokens.npy")
    with pytest.raises(DataError, match=rf"train-tokens.npy: row {last}, token \d+: a (target that|conversation without)"):
        wrong.require_mask(ours)
