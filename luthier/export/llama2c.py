"""Models of llama2.c. In: its legacy fp32 file and its tokenizer's. Out: a decoder, and pieces that encode and decode. Next: a parity test.

Source: the formats as llama2.c's `run.c` and `export.py` (version 0) have them, https://github.com/karpathy/llama2.c.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from luthier.config.model import ModelConfig
from luthier.errors import DataError
from luthier.model.decoder import Decoder

BEGIN, FIRST_BYTE = 1, 3
"""Ids of the token that begins a text, and of the one that stands for byte 0."""
_HEADER = struct.Struct("<7i")


def read_model(path: Path) -> Decoder:
    """Read a model: seven integers, then all weights of each kind, layer after layer.

    Raises: DataError when it cannot be read, or has not the length that its header asks for
    """
    data = _bytes(path)
    try:
        dim, hidden, layers, heads, kv_heads, rows, length = _HEADER.unpack_from(data)
        config = ModelConfig(
            d_model=dim, n_layers=layers, n_heads=heads, n_kv_heads=kv_heads, head_dim=dim // heads, d_ff=hidden, vocab_size=abs(rows),
            max_seq_len=length, rope_theta=10_000.0, norm_eps=1e-5, tie_embeddings=rows > 0, init_std=0.02,
            positions=("rope_interleaved",),
        )  # fmt: skip
    except (struct.error, ValueError, ZeroDivisionError) as error:
        raise DataError(f"{path}: not a model of llama2.c: {error}") from None
    with torch.device("meta"):
        model = Decoder(config)
    model.load_state_dict(_weights(path, data, config), assign=True)
    return model.eval()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _weights(path: Path, data: bytes, config: ModelConfig) -> dict[str, Tensor]:
    c, keys = config, config.n_kv_heads * config.head_dim
    kinds: list[tuple[str, tuple[int, ...]]] = [
        ("input_layernorm", (c.d_model,)),
        ("self_attn.q_proj", (c.d_model, c.d_model)),
        ("self_attn.k_proj", (keys, c.d_model)),
        ("self_attn.v_proj", (keys, c.d_model)),
        ("self_attn.o_proj", (c.d_model, c.d_model)),
        ("post_attention_layernorm", (c.d_model,)),
        ("mlp.gate_proj", (c.d_ff, c.d_model)),
        ("mlp.down_proj", (c.d_model, c.d_ff)),
        ("mlp.up_proj", (c.d_ff, c.d_model)),
    ]
    parts = [("embed_tokens.weight", (c.vocab_size, c.d_model))]
    parts += [(f"layers.{layer}.{name}.weight", shape) for name, shape in kinds for layer in range(c.n_layers)]
    parts += [("norm.weight", (c.d_model,)), ("", (2, c.max_seq_len, c.head_dim // 2))]  # cosines and sines, which nobody needs
    parts += [] if c.tie_embeddings else [("lm_head.weight", (c.vocab_size, c.d_model))]
    wanted = _HEADER.size + 4 * sum(int(np.prod(shape)) for _, shape in parts)
    if len(data) != wanted:
        raise DataError(f"{path}: a model with its header has {wanted:,} bytes, this file has {len(data):,}")
    values, weights = np.frombuffer(data, "<f4", offset=_HEADER.size), dict[str, Tensor]()
    for name, shape in parts:
        taken, values = values[: np.prod(shape)], values[np.prod(shape) :]
        if name:
            weights[name] = torch.from_numpy(taken.reshape(shape).astype(np.float32))
    return weights


@dataclass(frozen=True)
class Pieces:
    """A vocabulary with scores: of two neighbours, those whose joined piece scores highest are joined first, as in SentencePiece."""

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    @classmethod
    def read(cls, path: Path, size: int) -> Pieces:
        """Read the longest piece's length, then of each piece its score, its length and its bytes.

        Raises: DataError when the file cannot be read or ends early
        """
        data = _bytes(path)
        pieces, scores, place = list[bytes](), list[float](), 4
        for number in range(size):
            if len(data) < place + 8:
                raise DataError(f"{path}: there must be {size} pieces, the file ends behind {number}")
            score, length = struct.unpack_from("<fi", data, place)
            pieces.append(data[place + 8 : place + 8 + length])
            scores.append(score)
            place += 8 + length
        return cls(tuple(pieces), tuple(scores))

    def encode(self, text: str) -> list[int]:
        """Ids of a text behind the token that begins it; a space is put before the text, and unknown characters are bytes."""
        known = {piece: token for token, piece in reversed(list(enumerate(self.pieces)))}
        ids: list[int] = []
        for character in " " + text if text else "":
            encoded = character.encode()
            ids += [known[encoded]] if encoded in known else [byte + FIRST_BYTE for byte in encoded]
        while True:
            joined = [known.get(self.pieces[a] + self.pieces[b], -1) for a, b in pairwise(ids)]
            best = max((i for i, token in enumerate(joined) if token >= 0), key=lambda i: self.scores[joined[i]], default=None)
            if best is None:
                return [BEGIN, *ids]
            ids[best : best + 2] = [joined[best]]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; the space behind the token that begins it is left out."""
        parts: list[bytes] = []
        for before, token in pairwise([0, *ids]):
            piece = self.pieces[token]
            piece = piece.removeprefix(b" ") if before == BEGIN else piece
            byte = re.fullmatch(rb"<0x([0-9A-F]{2})>", piece)
            parts.append(b"" if token == BEGIN else bytes([int(byte[1], 16)]) if byte else piece)
        return b"".join(parts).decode("utf-8", "replace")
