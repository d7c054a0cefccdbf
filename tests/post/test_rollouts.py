"""Rollouts: what a batch holds, that it is a function of weights and number, and rewards that fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.config.post import GrpoSection
from luthier.errors import CheckpointError, DataError
from luthier.generate.engine import Engine
from luthier.generate.sampling import apply_top_p
from luthier.pack.loader import IGNORE_INDEX
from luthier.post.logprobs import Logits, token_logprobs
from luthier.post.policy import FIGURES, PolicyObjective
from luthier.post.rewards import Answer, Part, Reward, Rewards
from luthier.post.rollouts import ProblemRows, RolloutLoader, Rollouts
from luthier.tasks.conversation import Message
from luthier.tasks.grading.judge import Grade
from luthier.tasks.problems import Problem, arithmetic, problem
from luthier.train.objective import micro_batches
from tests.post.test_policy import section
from tests.small import small_decoder, small_tokenizer

TOKENIZER = small_tokenizer()
SYSTEM = [Message("system", "Add.")]


def worth(_: Sequence[Problem], answers: Sequence[Answer]) -> list[Reward]:
    return [Reward(1.0 / answer.tokens) for answer in answers]


def loader(settings: GrpoSection, directory: Path, seed: int = 1) -> tuple[RolloutLoader, Engine]:
    engine = Engine(small_decoder(3, vocab_size=TOKENIZER.vocab_size + 7, max_seq_len=96))
    rows = ProblemRows(arithmetic(1)[0][:40], SYSTEM, TOKENIZER, settings.max_new_tokens, 96)
    reference = small_decoder(4, vocab_size=TOKENIZER.vocab_size + 7) if settings.kl_coef else None
    rollouts = Rollouts(engine, TOKENIZER, rows, worth, settings, seed, reference)
    return RolloutLoader(rollouts, rows, settings, seed, directory, writes=True), engine


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("inputs", "targets")) and all(
        np.array_equal(one.extras[name], other.extras[name]) for name in one.extras | other.extras
    )


def test_a_batch_holds_what_was_said_and_what_it_is_worth(tmp_path: Path) -> None:
    settings = section(prompts_per_step=3, group_size=4, kl_coef=0.1, updates_per_rollout=2, normalise="sequence")
    made, engine = loader(settings, tmp_path)
    batch = made.batch(0)
    counted = batch.targets != IGNORE_INDEX
    assert batch.inputs.shape[0] == 12 and set(batch.extras) == {"advantages", "weights", "figures", "sampled", "old", "reference"}
    np.testing.assert_allclose(batch.extras["sampled"], batch.extras["old"], atol=1e-4)  # the engine is the trainer
    with torch.no_grad():
        logits = engine.model.logits(engine.model(torch.from_numpy(batch.inputs))).log_softmax(-1)
    right = logits.gather(-1, torch.from_numpy(batch.targets).clamp_min(0)[..., None]).squeeze(-1).numpy()
    np.testing.assert_allclose(batch.extras["old"], np.where(counted, right, 0), atol=1e-4)
    figures = dict(zip(FIGURES, batch.extras["figures"].sum(0), strict=True))
    lengths = counted.sum(1)
    assert figures["length"] == pytest.approx(lengths.mean())
    assert figures["reward"] == pytest.approx((1 / lengths).mean())
    np.testing.assert_allclose(batch.extras["weights"] * lengths, np.full(12, 1 / 12), rtol=1e-5)
    np.testing.assert_allclose(batch.extras["advantages"].reshape(3, 4).sum(1), np.zeros(3), atol=1e-5)
    reward, prompt, said = made.best(1)[0]
    assert reward == pytest.approx(1 / len(said)) and TOKENIZER.special.assistant == prompt[-1]
    assert max(batch.targets[counted]) < TOKENIZER.vocab_size


def test_what_is_sampled_otherwise_has_the_probabilities_it_was_drawn_with(tmp_path: Path) -> None:
    settings = section(prompts_per_step=4, group_size=4, temperature=0.8, top_p=0.7, kl_coef=0.1, updates_per_rollout=2)
    made, engine = loader(settings, tmp_path)
    batch = made.batch(0)
    targets = torch.from_numpy(batch.targets).clamp_min(0)[..., None]
    counted = batch.targets != IGNORE_INDEX
    with torch.no_grad():
        logits = engine.model.logits(engine.model(torch.from_numpy(batch.inputs)))
        reference = small_decoder(4, vocab_size=TOKENIZER.vocab_size + 7)
        before = (reference.logits(reference(torch.from_numpy(batch.inputs))) / 0.8).log_softmax(-1)
    whole = (logits / 0.8).log_softmax(-1)
    known = logits.index_fill(-1, torch.arange(TOKENIZER.vocab_size, logits.shape[-1]), -torch.inf)  # rows without a token are not drawn
    drawn = apply_top_p(known / 0.8, 0.7).log_softmax(-1)
    for name, logprobs in (("old", whole), ("sampled", drawn), ("reference", before)):
        right = logprobs.gather(-1, targets).squeeze(-1).numpy()
        np.testing.assert_allclose(batch.extras[name], np.where(counted, right, 0), atol=1e-4)
    assert (batch.extras["sampled"][counted] > batch.extras["old"][counted]).all(), "what is cut off makes the rest likelier"


def test_the_first_update_has_ratios_of_one_at_any_temperature(tmp_path: Path) -> None:
    settings = section(prompts_per_step=2, group_size=3, temperature=0.6, kl_coef=0.1, updates_per_rollout=2)
    made, engine = loader(settings, tmp_path)
    objective = PolicyObjective(settings)
    batch = made.batch(0)
    (part,) = micro_batches(batch, 99, "cpu")
    objective(engine.model, engine.model.head_weight, part, objective.count(batch)).backward()
    assert dict(zip(objective.measures, objective.sums(), strict=True))["clip_share"] == 0
    now, _ = token_logprobs(engine.model(part.inputs), engine.model.head_weight, part.targets, Logits(temperature=0.6))
    torch.testing.assert_close(now.detach(), part.extras["old"], atol=1e-5, rtol=0)


def test_a_rollout_is_a_function_of_weights_seed_and_number(tmp_path: Path) -> None:
    settings = section(prompts_per_step=2, group_size=3)
    first, again, other = (loader(settings, tmp_path, seed)[0] for seed in (1, 1, 2))
    assert same(first.batch(5), again.batch(5))
    assert not same(first.batch(5), first.batch(6))
    assert not same(first.batch(5), other.batch(5))
    assert first.rows(0).tolist() != first.rows(1).tolist()


def test_a_rollout_that_is_used_again_outlives_the_process(tmp_path: Path) -> None:
    settings = section(prompts_per_step=2, group_size=3, updates_per_rollout=3)
    made, engine = loader(settings, tmp_path)
    batch = made.batch(3)
    with torch.no_grad():
        engine.model.norm.weight.mul_(1.5)
    assert same(made.batch(5), batch)
    restarted, moved = loader(settings, tmp_path)
    with torch.no_grad():
        moved.model.norm.weight.mul_(1.5)
    assert same(restarted.batch(4), batch)
    assert not same(restarted.batch(6), batch)
    restarted.forget(6)
    assert [path.name for path in tmp_path.iterdir()] == ["00000002.npz"]


def test_a_damaged_rollout_is_an_error(tmp_path: Path) -> None:
    settings = section(prompts_per_step=2, group_size=3, updates_per_rollout=2)
    loader(settings, tmp_path)[0].batch(2)
    path = tmp_path / "00000001.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="rollout is damaged"):
        loader(settings, tmp_path)[0].batch(3)


def test_a_lost_rollout_is_an_error_and_not_sampled_again(tmp_path: Path) -> None:
    settings = section(prompts_per_step=2, group_size=3, updates_per_rollout=3)
    loader(settings, tmp_path)[0].batch(3)
    (tmp_path / "00000001.npz").unlink()
    for step in (4, 5):
        with pytest.raises(CheckpointError, match=r"00000001\.npz: the rollout is not there") as raised:
            loader(settings, tmp_path)[0].batch(step)
        assert "remove the stage's newest checkpoint" in str(raised.value.fix)
    loader(settings, tmp_path)[0].batch(3)


def test_a_problem_asked_twice_in_a_step_is_answered_anew(tmp_path: Path) -> None:
    settings = section(prompts_per_step=60, group_size=2)  # of 40 problems
    made, _ = loader(settings, tmp_path)
    asked, batch = made.rows(0).tolist(), made.batch(0)
    again = [(asked.index(problem), place) for place, problem in enumerate(asked) if place > asked.index(problem)]
    groups = batch.targets.reshape(60, 2, -1)
    assert len(again) == 20 and not any(np.array_equal(groups[one], groups[other]) for one, other in again)


def test_prompts_without_room_are_counted() -> None:
    long = problem("one " * 60, "1", "number")
    rows = ProblemRows([*arithmetic(1)[0][:3], long], [], TOKENIZER, 9, 64)
    assert (rows.n_rows, rows.dropped) == (3, [long])
    with pytest.raises(DataError, match="none of 1 problems"):
        ProblemRows([long], [], TOKENIZER, 9, 64)


class Faulty:
    """A grader that hangs or raises, as a judge reports it."""

    def grade(self, problem: Problem, response: str) -> Grade:
        return Grade(0.0, "took longer than 10 s") if response == "hang" else Grade(1.0)


def test_rewards_add_up_and_what_fails_counts_nothing_and_is_said() -> None:
    def rule(_: Sequence[Problem], answers: Sequence[Answer]) -> list[float | str]:
        if "raise" in (answer.text for answer in answers):
            raise RuntimeError("no such thing")
        return [{"nan": float("nan"), "slow": "took longer than 10 s"}.get(answer.text, 0.5) for answer in answers]

    said: list[str] = []
    settings = section(grader_weight=2.0, length_weight=1.0, length_margin=4, repetition_weight=1.0)
    rewards = Rewards(Faulty(), settings, said.append, [Part("rule", 0.1, rule)])
    asked = problem("1 + 1 =", "2", "number")
    first = [Answer("2", 2, True), Answer("2", 9, False), Answer("a b c a b c", 2, True)]
    assert [one.total for one in rewards([asked] * 3, first)] == [2.05, pytest.approx(1.05), pytest.approx(2.05 - 0.25)]
    assert rewards([problem("Hello.", "", "")], first[:1]) == [Reward(0.05, 0, None, (0.5,))]
    for text, total, grade, had in (("hang", 0.05, 0.0, 0.5), ("raise", 2.0, 1.0, 0.0), ("nan", 2.0, 1.0, 0.0), ("hang", 0.05, 0.0, 0.5)):
        assert rewards([asked], [Answer(text, 2, True)]) == [Reward(pytest.approx(total), 1, grade, (had,))]
    assert len(said) == 3 and "took longer" in said[0] and "no such thing" in said[1] and "gave nan" in said[2]
    assert [one.faults for one in rewards([asked] * 2, [Answer("slow", 2, True), Answer("2", 2, True)])] == [1, 0]
    assert said[3:] == ["the reward 'rule' took longer than 10 s; it counts as 0, training goes on"]


def test_a_rollout_with_nothing_to_learn_from_is_said_once() -> None:
    engine = Engine(small_decoder(3, vocab_size=TOKENIZER.vocab_size, max_seq_len=96))
    settings, told = section(prompts_per_step=2, group_size=3), list[str]()
    rows = ProblemRows(arithmetic(1)[0][:4], SYSTEM, TOKENIZER, settings.max_new_tokens, 96)
    worths = iter([[0.0, 1.0, 0.0, 1.0, 1.0, 1.0], *[[0.0] * 3 + [1.0] * 3] * 2])

    def reward(*_: object) -> list[Reward]:
        return [Reward(value) for value in next(worths)]

    rollouts, said = Rollouts(engine, TOKENIZER, rows, reward, settings, 1, None, told.append), list[int]()
    for number in range(3):
        rollouts.make(number, [0, 1])
        said.append(len(told))
    assert said == [0, 1, 1] and "all have equal rewards" in told[0]
