"""The loss of packed conversations and its gradients against TRL's trainer, one conversation a row."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.pack.conversations import ConversationRows, fit, pack_conversations
from luthier.pack.loader import IGNORE_INDEX, gather
from luthier.tasks.conversation import Conversation, conversation
from luthier.train.objective import NextToken, micro_batches
from tests.small import SENTENCES, small_decoder, small_tokenizer
from tests.twins import SHAPES, arguments, assert_same_gradients, loss_of, twin

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer


def some_conversations() -> list[Conversation]:
    words = " ".join(SENTENCES).split()
    made: list[Conversation] = []
    for i in range(7):
        first = [("user", " ".join(words[i : i + 3])), ("assistant", " ".join(words[i + 5 : i + 9]))]
        turns = [*first, ("user", words[i]), ("assistant", words[-i])]
        made.append(conversation(turns[: 4 if i % 2 else 2], "s"))  # type: ignore[arg-type]
    return made


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, at what TRL calls
@pytest.mark.parametrize("kind", SHAPES)
def test_packed_loss_and_gradients_equal_trls(kind: str, tmp_path: Path) -> None:
    tokenizer, given = small_tokenizer(), some_conversations()
    model = small_decoder(vocab_size=tokenizer.vocab_size, max_seq_len=96, **SHAPES[kind])
    pack_conversations(given, tokenizer, 95, tmp_path, "train")
    rows = ConversationRows.open(tmp_path, "train")
    assert rows.n_rows < len(given), "some conversations share a row"
    batch = gather(rows, np.arange(rows.n_rows))
    loss = torch.zeros(())
    for part in micro_batches(batch, 2, "cpu"):
        share = NextToken()(model, model.head_weight, part, batch.n_loss_tokens)
        share.backward()
        loss += share.detach()

    theirs, known = twin(model, tokenizer, tmp_path / "twin")
    rendered = [fit(one.messages, tokenizer, 96) for one in given]
    labels = [[token if counts else IGNORE_INDEX for token, counts in zip(ids, mask, strict=True)] for ids, mask, _ in rendered]
    told = Dataset.from_dict({"input_ids": [ids for ids, _, _ in rendered], "labels": labels})
    config = SFTConfig(**arguments(tmp_path, max_length=None))
    trainer = SFTTrainer(theirs, config, train_dataset=told, processing_class=known)
    expected, right = loss_of(trainer)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(model, right)
