"""What answers are worth. In: problems and answers to them. Out: rewards, and what went wrong. Next: rollouts.

A reward is the grader's, less what is taken off for length and repetition, plus further parts (rules, a learned model) with weights of
their own. Whatever raises or gives no number counts nothing, and is said once for each reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthier.config.post import GrpoSection
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
    """What an answer is worth, how many parts of that could not be had, and what the grader gave, where there is one."""

    total: float
    faults: int = 0
    grade: float | None = None


class Graded(Protocol):
    """What a grader says; `tasks.grading.judge.Grade` is one."""

    @property
    def reward(self) -> float: ...
    @property
    def fault(self) -> str | None: ...


class Grader(Protocol):
    """Who grades; `tasks.grading.judge.Judge` does, in a process of its own, where nothing can hang for ever."""

    def grade(self, problem: Problem, response: str) -> Graded: ...


Part = Callable[[Sequence[Problem], Sequence[Answer]], Sequence[float]]
"""A further part of rewards, such as a rule or a learned model: a number for each answer, NaN where it could not be had."""


class Rewards:
    """Adds up the parts of rewards."""

    def __init__(
        self, grader: Grader, settings: GrpoSection, warn: Callable[[str], None], others: Sequence[tuple[float, Part]] = ()
    ) -> None:
        """`others` are further parts, each behind its weight."""
        self._grader, self._settings, self._warn, self._others = grader, settings, warn, others
        self._said: set[str] = set()

    def __call__(self, problems: Sequence[Problem], answers: Sequence[Answer]) -> list[Reward]:
        """Judge answers, each to its problem."""
        rewards = [self._own(problem, answer) for problem, answer in zip(problems, answers, strict=True)]
        for weight, part in self._others:
            worth = self._values(part, problems, answers)
            rewards = [
                Reward(one.total + weight * value, one.faults, one.grade)
                if math.isfinite(value)
                else Reward(one.total, one.faults + 1, one.grade)
                for one, value in zip(rewards, worth, strict=True)
            ]
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
            values = [float(value) for value in part(problems, answers)]
            if len(values) != len(answers):
                raise ValueError(f"gave {len(values)} numbers for {len(answers)} answers")
        except Exception as error:  # a rule's fault must not end a training
            self._say(f"a reward failed: {type(error).__name__}: {error}")
            return [math.nan] * len(answers)
        for value in values:
            if not math.isfinite(value):
                self._say(f"a reward gave {value}")
        return values

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            self._warn(f"{reason}; it counts as 0, training goes on")
