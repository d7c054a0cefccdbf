"""The engine: prefill, then one token after another. In: token ids. Out: token ids, one by one. Next: text, chat.

Every request has its own KV cache and its own random numbers, so one engine may serve requests in any order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from luthier.config.sampling import SamplingSection
from luthier.errors import ConfigError, DataError, NumericsError
from luthier.generate.sampling import sample
from luthier.model.cache import KVCache
from luthier.model.decoder import Decoder

FinishReason = Literal["stop", "length"]
NO_IDS: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Completion:
    """What a model said: ids without the stop token, and why it ended."""

    ids: list[int]
    finish_reason: FinishReason


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
        return Completion(ids, generation.finish_reason)

    def generate_batch(
        self,
        prompts: Iterable[Sequence[int]],
        settings: SamplingSection,
        *,
        stop_ids: Collection[int] = NO_IDS,
        banned_ids: Collection[int] = NO_IDS,
        seed: int | None = None,
    ) -> list[Completion]:
        """Continue prompts one after another; prompt i has the seed `seed + i`, so its answer depends on no other prompt."""
        return [
            self.generate(prompt, settings, stop_ids=stop_ids, banned_ids=banned_ids, seed=None if seed is None else seed + i)
            for i, prompt in enumerate(prompts)
        ]

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is None or self.dtype == self.model.compute_dtype:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


class Generation(Iterator[int]):
    """One prompt being continued. Ends on a stop id (which is not given out), at `max_new_tokens`, or with a full context.

    The repetition penalty spares stop ids: they stand in every chat prompt, and a penalty would keep the model from ending.
    """

    def __init__(
        self,
        engine: Engine,
        prompt_ids: Sequence[int],
        settings: SamplingSection,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        seed: int | None,
    ) -> None:
        n_prompt, vocab_size = len(prompt_ids), engine.model.config.vocab_size
        if not n_prompt:
            raise DataError("a prompt must have at least one token, got none")
        if n_prompt >= engine.max_context:
            raise DataError(
                f"the prompt has {n_prompt:,} tokens and must leave room for an answer in the model's context of {engine.max_context:,}",
                fix="shorten the prompt or drop older messages",
            )
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
            raise DataError(f"a prompt's ids must be from 0 to {vocab_size - 1:,}, got {min(prompt_ids):,} to {max(prompt_ids):,}")
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = n_prompt
        self.count = 0
        """Tokens given out."""
        self._engine, self._settings = engine, settings
        self._stop_ids = frozenset(stop_ids)
        self._banned = torch.tensor(sorted(banned_ids), dtype=torch.int64, device=engine.device)
        self._limit = min(settings.max_new_tokens, engine.max_context - n_prompt)
        self._pending = list(prompt_ids)
        self._cache: KVCache | None = None
        self._open = True
        self._previous = torch.empty(1, n_prompt + self._limit, dtype=torch.int64, device=engine.device)  # (1, S)
        self._n_previous = 0
        self._generator = torch.Generator(engine.device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def __next__(self) -> int:
        if not self._open:
            raise StopIteration
        if self.count >= self._limit:
            self._end("length")
            raise StopIteration
        token = self._step()
        if token in self._stop_ids:
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
        engine = self._engine
        if self._cache is None:
            config, dtype = engine.model.config, engine.dtype or engine.model.compute_dtype
            self._cache = KVCache(config, 1, self.prompt_tokens + self._limit, engine.device, dtype)
        ids = torch.tensor([self._pending], dtype=torch.int64, device=engine.device)  # (1, T)
        with engine._autocast():
            hidden = engine.model(ids, cache=self._cache)  # (1, T, D)
            logits = engine.model.logits(hidden[:, -1])  # (1, V)
        if not torch.isfinite(logits).all():
            raise NumericsError("the model's logits are not finite", fix="its weights are damaged; load another checkpoint")
        logits = logits.float().index_fill(1, self._banned, float("-inf"))
        for token in self._pending:
            if token not in self._stop_ids:
                self._previous[0, self._n_previous] = token
                self._n_previous += 1
        return int(sample(logits, self._settings, self._generator, self._previous[:, : self._n_previous]).item())
