"""Sampling against Hugging Face's logits processors, and its own laws."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.logits_process import (
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from luthier.config.sampling import SamplingSection
from luthier.generate.sampling import (
    Sampler,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    block_repeated,
    draw,
    probabilities,
)


def seen(previous: torch.Tensor, vocab: int = 97) -> torch.Tensor:
    return torch.zeros(len(previous), vocab, dtype=torch.bool).scatter(1, previous, True)


def random_logits(seed: int, rows: int = 5, vocab: int = 97) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 4
    return logits, torch.randint(vocab, (rows, 11), generator=generator)


@pytest.mark.parametrize("penalty", [1.0, 1.1, 2.5])
def test_repetition_penalty_equals_transformers(penalty: float) -> None:
    logits, previous = random_logits(1)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(previous, logits.clone())
    torch.testing.assert_close(apply_repetition_penalty(logits, seen(previous), penalty), expected, rtol=0, atol=0)


def test_repetition_penalty_without_previous_tokens_changes_nothing() -> None:
    logits, previous = random_logits(1)
    assert torch.equal(apply_repetition_penalty(logits, seen(previous[:, :0]), 2.0), logits)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_repeated_ngrams_are_blocked_as_in_transformers(n: int) -> None:
    chance = torch.Generator().manual_seed(n)
    blocked = 0
    for length in (1, 2, 4, 40):
        said, logits = torch.randint(0, 2, (3, length), generator=chance), torch.randn(3, 9, generator=chance)
        found = block_repeated(logits, said, n)
        assert torch.equal(found, NoRepeatNGramLogitsProcessor(n)(said, logits.clone()))
        blocked += int(found.isinf().sum())
    assert blocked > 0


def test_an_answer_may_quote_its_prompt_but_does_not_say_the_same_again() -> None:
    settings = SamplingSection(temperature=0, repetition_penalty=1.0, no_repeat_ngram=2, max_new_tokens=9)
    sampler = Sampler(settings, [[1, 2, 1, 2]] * 2, [1, 1], 9, 4, {3}, (), torch.device("cpu"))
    likely = {1: 2, 2: 1}
    drawn = [[1, 1]]
    sampler(torch.tensor([[0.0, 9, 5, 1]] * 2))
    for number in range(4):
        if number == 1:
            sampler.select(torch.tensor([1]))
        last = drawn[-1][0]
        logits = torch.tensor([[1.0, 0, 0, 4]] * (2 if number < 1 else 1)).index_fill(1, torch.tensor([likely.get(last, 0)]), 9.0)
        drawn.append(sampler(logits).tolist())
    assert [tokens[0] for tokens in drawn] == [1, 2, 1, 3, 0]


@pytest.mark.parametrize("k", [1, 2, 40, 96, 97, 1000])
def test_top_k_equals_transformers(k: int) -> None:
    logits, previous = random_logits(2)
    torch.testing.assert_close(apply_top_k(logits, k), TopKLogitsWarper(k)(previous, logits.clone()), rtol=0, atol=0)


def test_top_k_zero_keeps_all() -> None:
    logits, _ = random_logits(2)
    assert apply_top_k(logits, 0) is logits


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_top_p_equals_transformers(p: float) -> None:
    logits, previous = random_logits(3, rows=50)
    expected = logits if p == 1.0 else TopPLogitsWarper(p)(previous, logits.clone())
    torch.testing.assert_close(apply_top_p(logits, p), expected, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 9.0])
def test_temperature_gives_the_distribution_of_transformers(temperature: float) -> None:
    logits, previous = random_logits(4)
    expected = TemperatureLogitsWarper(temperature)(previous, logits.clone()).softmax(-1)
    torch.testing.assert_close(apply_temperature(logits, temperature).softmax(-1), expected)


def test_the_whole_chain_equals_transformers() -> None:
    logits, previous = random_logits(5, rows=20)
    settings = SamplingSection(temperature=0.8, top_k=30, top_p=0.9, repetition_penalty=1.3)
    expected = logits.clone()
    for step in (RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.8), TopKLogitsWarper(30), TopPLogitsWarper(0.9)):
        expected = step(previous, expected)
    torch.testing.assert_close(probabilities(logits, settings, seen(previous)), expected.softmax(-1))


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-6])
def test_a_tiny_temperature_is_finite_and_greedy(temperature: float) -> None:
    logits, _ = random_logits(6)
    chances = probabilities(logits, SamplingSection(temperature=temperature, top_k=0, top_p=1.0))
    assert torch.isfinite(chances).all()
    assert torch.equal(chances.argmax(-1), logits.argmax(-1))
    assert chances.amax(-1).min() > 0.999


def test_temperature_zero_is_greedy_after_the_penalty() -> None:
    logits, there = torch.tensor([[3.0, 2.9, -1.0]]), torch.tensor([[True, False, False]])
    assert probabilities(logits, SamplingSection(temperature=0, repetition_penalty=1), there).argmax() == 0
    assert probabilities(logits, SamplingSection(temperature=0, repetition_penalty=2), there).argmax() == 1


def test_samples_follow_the_distribution() -> None:
    settings = SamplingSection(temperature=1.0, top_k=3, top_p=1.0)
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(3))
    ids = draw(probabilities(logits.expand(20_000, 4), settings), uniforms)
    shares = torch.bincount(ids, minlength=4) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=0.015, rtol=0)
    assert shares[3] == 0


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("without", [(0,), (7,), (0, 1, 6, 7), (3, 4)])
def test_a_token_without_a_chance_is_never_drawn(uniform: float, without: tuple[int, ...]) -> None:
    logits = torch.zeros(1, 8).index_fill(1, torch.tensor(without), float("-inf"))
    chances = probabilities(logits, SamplingSection(temperature=2.0, top_k=0, top_p=1.0))
    assert draw(chances, torch.tensor([uniform])).item() in set(range(8)) - set(without)
