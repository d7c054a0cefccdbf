"""Many prompts at once against one at a time."""

from __future__ import annotations

import pytest
import torch

from luthier.config.sampling import SamplingSection
from luthier.errors import DataError
from luthier.generate.batch import generate_batch
from luthier.generate.engine import Engine
from luthier.model.cache import KVCache
from tests.generate.conftest import tiny_decoder
from tests.small import small_decoder

WARM = SamplingSection(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1, max_new_tokens=20)
PROMPTS = [[3, 1, 4, 1, 5], [8, 9], [7], list(range(20)), [3, 1, 4, 1, 5], [8, 9], [60, 2, 33], list(range(30, 47)), [1] * 40]
SEEDS = list(range(4, 13))


@pytest.mark.parametrize("rows_at_once", [1, 4, 64])
@pytest.mark.parametrize(
    "settings",
    [WARM, SamplingSection(temperature=0.8, repetition_penalty=1.4, max_new_tokens=30), SamplingSection(temperature=0)],
    ids=["warm", "cut", "greedy"],
)
def test_answers_are_those_of_one_prompt_at_a_time(engine: Engine, settings: SamplingSection, rows_at_once: int) -> None:
    words = {"stop_ids": {5, 6, 7, 11}, "banned_ids": {0, 63}}
    alone = [engine.generate(prompt, settings, seed=seed, **words) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    together = generate_batch(engine, PROMPTS, settings, SEEDS, rows_at_once=rows_at_once, **words)
    assert [(c.ids, c.finish_reason, c.stop_id) for c in together] == [(c.ids, c.finish_reason, c.stop_id) for c in alone]
    assert {c.finish_reason for c in together} == {"stop", "length"}


def test_an_answer_depends_on_no_other_prompt(engine: Engine) -> None:
    forward = generate_batch(engine, PROMPTS, WARM, SEEDS, stop_ids={5})
    backward = generate_batch(engine, PROMPTS[::-1], WARM, SEEDS[::-1], stop_ids={5}, rows_at_once=3)
    assert [c.ids for c in forward] == [c.ids for c in backward[::-1]]
    assert generate_batch(engine, [], WARM, []) == []


def test_one_prompt_with_many_seeds_gives_many_answers(engine: Engine) -> None:
    answers = {tuple(c.ids) for c in generate_batch(engine, [[3, 1]] * 8, WARM, list(range(8)))}
    assert len(answers) == 8


@pytest.mark.parametrize("changes", [{}, {"positions": ("learned",)}, {"positions": ("alibi", "none")}, {"key_offset": True}], ids=str)
def test_logprobs_are_the_model_s_own(changes: dict[str, object]) -> None:
    engine = Engine(small_decoder(**changes))
    settings = SamplingSection(temperature=0.5, top_k=3, repetition_penalty=1.5, max_new_tokens=12)
    found = generate_batch(engine, PROMPTS, settings, SEEDS, stop_ids={5, 6, 7, 11}, banned_ids={3})
    for prompt, completion in zip(PROMPTS, found, strict=True):
        said = [*completion.ids, *([] if completion.stop_id is None else [completion.stop_id])]
        with torch.no_grad():
            logits = engine.model.logits(engine.model(torch.tensor([prompt + said])))[0, len(prompt) - 1 : -1]
        right = logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(completion.logprobs), right, atol=2e-5, rtol=1e-4)
    assert {c.finish_reason for c in found} == {"stop", "length"}


def test_sequences_that_end_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    select = KVCache.select

    def watched(cache: KVCache, rows: torch.Tensor) -> None:
        select(cache, rows)
        sizes.append(cache.keys.shape[1])

    monkeypatch.setattr(KVCache, "select", watched)
    answers = generate_batch(Engine(tiny_decoder()), [[3, 1]] * 16, WARM, list(range(16)), stop_ids=set(range(0, 64, 8)))
    assert sizes[0] == 16 and sizes == sorted(sizes, reverse=True) and sizes[-1] < 8
    assert len({len(c.ids) for c in answers}) > 3


def test_a_wrong_prompt_among_many_is_refused(engine: Engine) -> None:
    with pytest.raises(DataError, match="48 tokens"):
        generate_batch(engine, [[1], [1] * 48], WARM, [1, 2])
