"""The loss of packed conversations and its gradients against TRL's collator and the loss that its trainer takes, one conversation a row."""

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

transformers = pytest.importorskip("transformers")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("trl")
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


def some_conversations() -> list[Conversation]:
    words = " ".join(SENTENCES).split()
    made: list[Conversation] = []
    for i in range(7):
        first = [("user", " ".join(words[i : i + 3])), ("assistant", " ".join(words[i + 5 : i + 9]))]
        turns = [*first, ("user", words[i]), ("assistant", words[-i])]
        made.append(conversation(turns[: 4 if i % 2 else 2], "s"))  # type: ignore[arg-type]
    return made


def test_packed_loss_and_gradients_equal_trls(tmp_path: Path) -> None:
    tokenizer, given = small_tokenizer(), some_conversations()
    model = small_decoder(vocab_size=tokenizer.vocab_size, max_seq_len=96)
    pack_conversations(given, tokenizer, 95, tmp_path, "train")
    rows = ConversationRows.open(tmp_path, "train")
    assert rows.n_rows < len(given), "some conversations share a row"
    batch = gather(rows, np.arange(rows.n_rows))
    loss = torch.zeros(())
    for part in micro_batches(batch, 2, "cpu"):
        share = NextToken()(model, model.head_weight, part, batch.n_loss_tokens)
        share.backward()
        loss += share.detach()

    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=96, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config)
    theirs.model.load_state_dict(model.state_dict())
    rendered = [fit(one.messages, tokenizer, 96) for one in given]
    collator = DataCollatorForLanguageModeling(pad_token_id=tokenizer.special.pad)
    labels = [[token if counts else IGNORE_INDEX for token, counts in zip(ids, mask, strict=True)] for ids, mask, _ in rendered]
    inputs = collator([{"input_ids": ids, "labels": wanted} for (ids, _, _), wanted in zip(rendered, labels, strict=True)])
    expected = theirs(**inputs).loss
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), atol=1e-5, rtol=1e-5)
    named = dict(theirs.model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, named[name].grad, atol=1e-5, rtol=1e-4, msg=name)
