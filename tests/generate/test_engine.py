"""The engine against a full recompute, and how a generation ends."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from luthier.config.sampling import SamplingSection
from luthier.errors import ConfigError, DataError, NumericsError
from luthier.generate.engine import Engine
from luthier.generate.sampling import apply_repetition_penalty
from luthier.model.decoder import Decoder
from tests.generate.conftest import tiny_decoder

GREEDY = SamplingSection(temperature=0, repetition_penalty=1, max_new_tokens=20)
WARM = SamplingSection(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1, max_new_tokens=20)
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@torch.no_grad()
def recompute(model: Decoder, prompt: list[int], count: int, penalty: float = 1.0) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        now = torch.tensor([ids])
        logits = model.logits(model(now)[:, -1])
        seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, now, True)
        ids.append(int(apply_repetition_penalty(logits, seen, penalty).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("prompt", [[7], PROMPT, list(range(27))])
def test_cached_decode_equals_full_recompute(engine: Engine, prompt: list[int], penalty: float) -> None:
    settings = GREEDY.model_copy(update={"repetition_penalty": penalty})
    assert engine.generate(prompt, settings).ids == recompute(engine.model, prompt, 20, penalty)


def test_same_seed_same_tokens(engine: Engine) -> None:
    first, again, other = (engine.generate(PROMPT, WARM, seed=seed).ids for seed in (5, 5, 6))
    assert first == again != other
    assert engine.generate(PROMPT, WARM).ids != engine.generate(PROMPT, WARM).ids


def test_two_streams_at_once_do_not_disturb_each_other(engine: Engine) -> None:
    alone = [engine.generate(PROMPT, WARM, seed=1).ids, engine.generate([8, 9], WARM, seed=2).ids]
    streams = engine.stream(PROMPT, WARM, seed=1), engine.stream([8, 9], WARM, seed=2)
    together = list(zip(*streams, strict=True))
    assert [list(ids) for ids in zip(*together, strict=True)] == alone


def test_ends_at_max_new_tokens(engine: Engine) -> None:
    completion = engine.generate(PROMPT, GREEDY.model_copy(update={"max_new_tokens": 3}))
    assert len(completion.ids) == 3
    assert completion.finish_reason == "length"


def test_ends_when_the_context_is_full(engine: Engine) -> None:
    completion = engine.generate(PROMPT, GREEDY.model_copy(update={"max_new_tokens": 10**6}))
    assert len(completion.ids) == engine.max_context - len(PROMPT)
    assert completion.finish_reason == "length"
    assert len(engine.generate([1] * 47, GREEDY).ids) == 1


def test_a_stop_id_ends_and_is_not_given(engine: Engine) -> None:
    ids = engine.generate(PROMPT, GREEDY).ids
    stop = ids[4]
    completion = engine.generate(PROMPT, GREEDY, stop_ids={stop})
    assert completion.ids == ids[: ids.index(stop)]
    assert completion.finish_reason == "stop"


def test_banned_ids_never_come(engine: Engine) -> None:
    banned = set(range(0, 64, 2))
    ids = [i for seed in range(5) for i in engine.generate(PROMPT, WARM, banned_ids=banned, seed=seed).ids]
    assert len(ids) == 100
    assert not banned & set(ids)


def test_the_repetition_penalty_spares_stop_ids(engine: Engine) -> None:
    prompts = ([stop, other] for stop in range(64) for other in range(64))
    prompt = next(p for p in prompts if recompute(engine.model, p, 1) == p[:1])  # its likeliest continuation stands in it
    settings = GREEDY.model_copy(update={"repetition_penalty": 10.0})
    assert engine.generate(prompt, settings, stop_ids=prompt[:1]).ids == []
    assert engine.generate(prompt, settings).ids[0] != prompt[0]


def test_closing_frees_the_cache_and_ends_the_stream(engine: Engine) -> None:
    stream = engine.stream(PROMPT, GREEDY)
    next(stream)
    cache = weakref.ref(stream._cache)
    assert cache() is not None
    stream.close()
    gc.collect()
    assert cache() is None
    assert list(stream) == []
    assert stream.finish_reason is None


def test_a_stream_does_not_leave_inference_mode_on(engine: Engine) -> None:
    next(engine.stream(PROMPT, GREEDY))
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [([], "at least one token"), ([1] * 48, "48 tokens"), ([0, 64], "0 to 63"), ([-1], "got -1")],
)
def test_wrong_prompts_are_refused(engine: Engine, prompt: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        engine.stream(prompt, GREEDY)


def test_a_context_the_model_was_not_made_for_is_refused(decoder: Decoder) -> None:
    with pytest.raises(ConfigError, match="48"):
        Engine(decoder, max_context=49)
    assert Engine(decoder, max_context=20).max_context == 20


def test_damaged_weights_are_an_error_not_a_token() -> None:
    model = tiny_decoder()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(NumericsError, match="not finite"):
        Engine(model).generate(PROMPT, GREEDY)


def test_autocast_to_bf16_stays_close(decoder: Decoder) -> None:
    engine = Engine(decoder, dtype=torch.bfloat16)
    assert engine.generate(PROMPT, GREEDY).ids[:2] == Engine(decoder).generate(PROMPT, GREEDY).ids[:2]


def test_parameters_are_counted_once() -> None:
    model = tiny_decoder()
    assert Engine(model).parameters == sum(p.numel() for p in model.parameters())
