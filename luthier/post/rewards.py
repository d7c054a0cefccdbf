"""What answers are worth. In: problems and answers to them. Out: rewards, and what went wrong. Next: rollouts.

A reward is the grader's, less what is taken off for length and repetition, plus further parts (rules, a learned model) with weights of
their own. Whatever raises or gives no number counts nothing, and is said once for each reason; only a grader's process that
fails to start again and again ends the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthier.config.post import GrpoSection
from luthier.errors import HardwareError
from luthier.tasks.grading.penalties import length_penalty, repetition_penalty
from luthier.tasks.problems import Problem


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said: the text, its tokens with the one that ended it, and whether one did."""

    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Reward:
    """What an answer is worth, how many parts of that could not be had, what the grader gave, where there is one, and the further parts."""

    total: float
    faults: int = 0
    grade: float | None = None
    parts: tuple[float, ...] = ()
    """Without their weights; 0 for what could not be had."""


class Graded(Protocol):
    """What a grader says; `tasks.grading.judge.Grade` is one."""

    @property
    def reward(self) -> float: ...
    @property
    def fault(self) -> str | None: ...


class Grader(Protocol):
    """Who grades; `tasks.grading.judge.Judge` does, in a process of its own, where nothing can hang for ever."""

    def grade(self, problem: Problem, response: str) -> Graded: ...


@dataclass(frozen=True)
class Part:
    """A further part of rewards, such as a rule or a learned model: what it is called in the metrics, its weight, and what it says.

    It gives a number for each answer, or says why it could not be had.
    """

    name: str
    weight: float
    says: Callable[[Sequence[Problem], Sequence[Answer]], Sequence[float | str]]


class Rewards:
    """Adds up the parts of rewards."""

    def __init__(self, grader: Grader, settings: GrpoSection, warn: Callable[[str], None], parts: Sequence[Part] = ()) -> None:
        """`parts` are those beside the grader's and what is taken off."""
        self._grader, self._settings, self._warn, self.parts = grader, settings, warn, parts
        self._said: set[str] = set()

    def __call__(self, problems: Sequence[Problem], answers: Sequence[Answer]) -> list[Reward]:
        """Judge answers, each to its problem."""
        rewards = [self._own(problem, answer) for problem, answer in zip(problems, answers, strict=True)]
        for part in self.parts:
            worth = self._values(part, problems, answers)
            rewards = [_more(one, part.weight, value) for one, value in zip(rewards, worth, strict=True)]
        return rewards

    def _own(self, problem: Problem, answer: Answer) -> Reward:
        """The grader's part, and what is taken off."""
        settings, total, faults, grade = self._settings, 0.0, 0, None
        if settings.grader_weight and problem.grader:
            graded = self._grader.grade(problem, answer.text)
            grade, faults = graded.reward, int(graded.fault is not None)
            total = settings.grader_weight * grade
            if graded.fault is not None:
                self._say(f"the grader {problem.grader!r} {graded.fault}")
        longest = settings.max_new_tokens
        total -= settings.length_weight * length_penalty(answer.tokens, longest - 1, settings.length_margin)
        total -= settings.repetition_weight * repetition_penalty(answer.text)
        return Reward(total, faults, grade)

    def _values(self, part: Part, problems: Sequence[Problem], answers: Sequence[Answer]) -> list[float]:
        try:
            said = part.says(problems, answers)
            if len(said) != len(answers):
                raise ValueError(f"gave {len(said)} numbers for {len(answers)} answers")
            values = [math.nan if isinstance(value, str) else float(value) for value in said]
        except HardwareError:
            raise
        except Exception as error:  # a rule's fault must not end a training
            self._say(f"a reward failed: {type(error).__name__}: {error}")
            return [math.nan] * len(answers)
        for value, found in zip(values, said, strict=True):
            if not math.isfinite(value):
                self._say(f"the reward {part.name!r} {found if isinstance(found, str) else f'gave {value}'}")
        return values

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            self._warn(f"{reason}; it counts as 0, training goes on")


def _more(reward: Reward, weight: float, value: float) -> Reward:
    had = math.isfinite(value)
    found = value if had else 0.0
    return Reward(reward.total + weight * found, reward.faults + (not had), reward.grade, (*reward.parts, found))
