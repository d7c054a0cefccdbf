"""llama2.c's files: what is written is read, the numbers are a Llama's, and the real stories260K tells its published story."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.config.sampling import SamplingSection
from luthier.errors import DataError
from luthier.export.llama2c import Pieces, read_model
from luthier.generate.engine import Engine
from luthier.model.decoder import Decoder
from tests.small import small_decoder
from tests.switches import shake

PIECES: list[tuple[bytes, float]] = [
    (b"<unk>", 0.0), (b"<s>", 0.0), (b"</s>", 0.0), *((b"<0x%02X>" % byte, 0.0) for byte in range(256)),
    (b" ", -1.0), (b"a", -2.0), (b"b", -3.0), (b"ab", -4.0), (b" a", -5.0), (b" ab", -6.0), (b"ba", -7.0), (b"\xc3\xa9", -8.0),
]  # fmt: skip
ORDER = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
    "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj",
)  # fmt: skip


def small(tied: bool) -> Decoder:
    return shake(small_decoder(4, positions="rope_interleaved", tie_embeddings=tied))


def write(model: Decoder, path: Path) -> None:
    """A model in llama2.c's first format."""
    c, state = model.config, model.state_dict()
    rows = c.vocab_size if c.tie_embeddings else -c.vocab_size
    names = ["embed_tokens", *(f"layers.{layer}.{name}" for name in ORDER for layer in range(c.n_layers)), "norm"]
    parts = [state[f"{name}.weight"].numpy() for name in names]
    parts.append(np.zeros(c.max_seq_len * c.head_dim, np.float32))
    parts += [] if c.tie_embeddings else [state["lm_head.weight"].numpy()]
    header = struct.pack("<7i", c.d_model, c.d_ff, c.n_layers, c.n_heads, c.n_kv_heads, rows, c.max_seq_len)
    path.write_bytes(header + b"".join(part.astype("<f4").tobytes() for part in parts))


def write_pieces(path: Path) -> None:
    entries = [struct.pack("<fi", score, len(piece)) + piece for piece, score in PIECES]
    path.write_bytes(struct.pack("<i", max(len(piece) for piece, _ in PIECES)) + b"".join(entries))


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_written_is_read(tmp_path: Path, tied: bool) -> None:
    model = small(tied)
    write(model, tmp_path / "model.bin")
    found = read_model(tmp_path / "model.bin")
    assert found.config.model_dump(exclude={"init_std"}) == model.config.model_dump(exclude={"init_std"})
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(found.logits(found(ids)), model.logits(model(ids)))


def test_a_file_of_another_length_or_kind_is_refused(tmp_path: Path) -> None:
    write(small(True), tmp_path / "model.bin")
    data = (tmp_path / "model.bin").read_bytes()
    for wrong in (data[:-4], data + b"\0\0\0\0", data[:20], b"\0" * 28):
        (tmp_path / "wrong.bin").write_bytes(wrong)
        with pytest.raises(DataError, match=r"wrong\.bin"):
            read_model(tmp_path / "wrong.bin")
    with pytest.raises(DataError, match="cannot be read"):
        read_model(tmp_path / "none.bin")


def test_the_best_pair_is_joined_first(tmp_path: Path) -> None:
    write_pieces(tmp_path / "tok.bin")
    pieces = Pieces.read(tmp_path / "tok.bin", len(PIECES))
    names = {piece: token for token, (piece, _) in enumerate(PIECES)}
    assert pieces.encode("") == [1]
    assert pieces.encode("ab") == [1, names[b" ab"]]
    assert pieces.encode("aab") == [1, names[b" a"], names[b"ab"]], "`ab` before ` a`"
    assert pieces.encode("é!") == [1, names[b" "], names["é".encode()], ord("!") + 3]
    for text in ("", "abba", "é! ab  a", "中\n"):
        assert pieces.decode(pieces.encode(text)) == text
    (tmp_path / "short.bin").write_bytes((tmp_path / "tok.bin").read_bytes()[:-12])
    with pytest.raises(DataError, match="ends behind"):
        Pieces.read(tmp_path / "short.bin", len(PIECES))


def llama(model: Decoder) -> Any:
    """The same weights in transformers' Llama, whose pairs are halves."""
    transformers = pytest.importorskip("transformers")
    from luthier.export.hf import _llama, _weights

    fields = {**_llama(model.config), "vocab_size": model.config.vocab_size, "tie_word_embeddings": model.config.tie_embeddings}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields, pad_token_id=0, eos_token_id=None)).eval()
    weights = _weights(model.config, "LlamaForCausalLM", model.state_dict())
    theirs.load_state_dict({**weights, "lm_head.weight": model.head_weight})
    return theirs


@pytest.mark.skipif(
    not os.environ.get("LUTHIER_STORIES260K"), reason="LUTHIER_STORIES260K names no folder with stories260K.bin and tok512.bin"
)
def test_the_real_model_tells_its_published_story() -> None:
    folder = Path(os.environ["LUTHIER_STORIES260K"])
    model, pieces = read_model(folder / "stories260K.bin"), Pieces.read(folder / "tok512.bin", 512)
    greedy = SamplingSection(temperature=0, repetition_penalty=1.0, top_k=0, top_p=1.0, max_new_tokens=200)
    ids = Engine(model).generate([1], greedy).ids
    story = pieces.decode([1, *ids])
    assert story.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside in the park.")
    assert hashlib.sha256(story.encode()).hexdigest() == "beeb5cb46785efee81a8545300b31e396b595e5ce6f3b77db201545501981d14"
    theirs = llama(model)
    answer = theirs.generate(torch.tensor([[1]]), attention_mask=torch.ones(1, 1), do_sample=False, max_new_tokens=200)
    assert answer[0, 1:].tolist() == ids
    with torch.inference_mode():
        torch.testing.assert_close(model.logits(model(answer)), theirs(answer).logits, atol=1e-3, rtol=1e-4)
