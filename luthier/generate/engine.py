"""The engine: prefill, then one token after another. In: token ids. Out: token ids, one by one. Next: batch, text, chat.

Every request has its own random numbers, and a stream its own KV cache, so one engine may serve requests in any order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from luthier.config.sampling import SamplingSection
from luthier.errors import ConfigError, DataError
from luthier.generate.sampling import Sampler
from luthier.model.cache import KVCache
from luthier.model.decoder import Decoder

FinishReason = Literal["stop", "length"]
NO_IDS: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Completion:
    """What a model said: ids without the stop token, and why it ended."""

    ids: list[int]
    finish_reason: FinishReason
    stop_id: int | None = None
    """The token that ended it."""
    logprobs: tuple[float, ...] = ()
    """From a batch: each token's log-probability, the stop token's last. It is the model's own, at temperature 1 and over the whole
    vocabulary: what a policy's loss needs. Tokens follow it only if sampling has temperature 1 and neither cut, penalty nor ban.
    Units: nats"""


class Engine:
    """A decoder that continues prompts.

    `dtype` is the type of matrix products under autocast; `None` leaves it to the model. `max_context` limits prompt and answer
    together and is the model's `max_seq_len` by default.
    Raises: ConfigError when `max_context` is below 2 or beyond what the model was made for.
    """

    def __init__(
        self, model: Decoder, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, max_context: int | None = None
    ) -> None:
        longest = model.config.max_seq_len
        self.max_context = longest if max_context is None else max_context
        if not 2 <= self.max_context <= longest:
            raise ConfigError(f"max_context must be between 2 and the model's max_seq_len of {longest}, got {self.max_context}")
        self.model = model
        self.device = torch.device(device)
        self.dtype = dtype

    @property
    def parameters(self) -> int:
        """Number of the model's parameters; tied ones count once."""
        return sum(p.numel() for p in self.model.parameters())

    def stream(
        self,
        prompt_ids: Sequence[int],
        settings: SamplingSection,
        *,
        stop_ids: Collection[int] = NO_IDS,
        banned_ids: Collection[int] = NO_IDS,
        seed: int | None = None,
    ) -> Generation:
        """Continue a prompt; nothing is computed before the first token is asked for.

        Raises: DataError when the prompt is empty, has an id the model does not know, or leaves no room for a token.
        """
        return Generation(self, prompt_ids, settings, stop_ids, banned_ids, seed)

    def generate(
        self,
        prompt_ids: Sequence[int],
        settings: SamplingSection,
        *,
        stop_ids: Collection[int] = NO_IDS,
        banned_ids: Collection[int] = NO_IDS,
        seed: int | None = None,
    ) -> Completion:
        """Continue a prompt to its end; see `stream`."""
        generation = self.stream(prompt_ids, settings, stop_ids=stop_ids, banned_ids=banned_ids, seed=seed)
        ids = list(generation)
        assert generation.finish_reason is not None
        return Completion(ids, generation.finish_reason, generation.stop_id)

    def room_for(self, prompt_ids: Sequence[int], max_new_tokens: int) -> int:
        """How many tokens may follow a prompt.

        Raises: DataError when the prompt is empty, has an id the model does not know, or leaves no room for a token.
        """
        n_prompt, vocab_size = len(prompt_ids), self.model.config.vocab_size
        if not n_prompt:
            raise DataError("a prompt must have at least one token, got none")
        if n_prompt >= self.max_context:
            raise DataError(
                f"the prompt has {n_prompt:,} tokens and must leave room for an answer in the model's context of {self.max_context:,}",
                fix="shorten the prompt or drop older messages",
            )
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
            raise DataError(f"a prompt's ids must be from 0 to {vocab_size - 1:,}, got {min(prompt_ids):,} to {max(prompt_ids):,}")
        return min(max_new_tokens, self.max_context - n_prompt)

    def new_cache(self, rows: int, max_len: int) -> KVCache:
        """An empty cache for so many sequences of at most so many tokens."""
        return KVCache(self.model.config, rows, max_len, self.device, self.dtype or self.model.compute_dtype)

    def last_logits(self, ids: Tensor, cache: KVCache, doc_ids: Tensor | None = None) -> Tensor:
        """Take ids in and give the logits of what follows them; `doc_ids` are those of all that the cache then holds.

        Shapes: ids (B, T), doc_ids (B, S) -> (B, V)
        """
        with self._autocast():
            hidden = self.model(ids, doc_ids=doc_ids, cache=cache)  # (B, T, D)
            return self.model.logits(hidden[:, -1])

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is None or self.dtype == self.model.compute_dtype:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


class Generation(Iterator[int]):
    """One prompt being continued. Ends on a stop id (which is not given out), at `max_new_tokens`, or with a full context."""

    def __init__(
        self,
        engine: Engine,
        prompt_ids: Sequence[int],
        settings: SamplingSection,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        seed: int | None,
    ) -> None:
        self._limit = engine.room_for(prompt_ids, settings.max_new_tokens)
        self.finish_reason: FinishReason | None = None
        self.stop_id: int | None = None
        self.prompt_tokens = len(prompt_ids)
        self.count = 0
        """Tokens given out."""
        self._engine, self._stop_ids = engine, frozenset(stop_ids)
        vocab_size = engine.model.config.vocab_size
        self._sampler = Sampler(settings, [prompt_ids], [seed], self._limit, vocab_size, stop_ids, banned_ids, engine.device)
        self._pending = list(prompt_ids)
        self._cache: KVCache | None = None
        self._open = True

    def __next__(self) -> int:
        if not self._open:
            raise StopIteration
        if self.count >= self._limit:
            self._end("length")
            raise StopIteration
        token = self._step()
        if token in self._stop_ids:
            self.stop_id = token
            self._end("stop")
            raise StopIteration
        self._pending = [token]
        self.count += 1
        return token

    def close(self) -> None:
        """Stop here and free the cache; further tokens are not given."""
        self._open = False
        self._cache = None

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        self.close()

    # Inference mode belongs to a thread, so it is entered for each step and never held while a caller has control.
    @torch.inference_mode()
    def _step(self) -> int:
        if self._cache is None:
            self._cache = self._engine.new_cache(1, self.prompt_tokens + self._limit)
        ids = torch.tensor([self._pending], dtype=torch.int64, device=self._engine.device)  # (1, T)
        return int(self._sampler(self._engine.last_logits(ids, self._cache)).item())
