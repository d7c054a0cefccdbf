"""What an answer is worth. In: a problem and an answer. Out: a reward, and what went wrong. Next: rollouts.

A reward is the grader's, less what is taken off for length and repetition, plus others (a rule, a learned model) with weights of their
own. Whatever raises or gives no number counts nothing, and is said once for each reason.
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
    """What an answer is worth, and how many parts of that could not be had."""

    total: float
    faults: int = 0


class Graded(Protocol):
    """What a grader says; `tasks.grading.judge.Grade` is one."""

    @property
    def reward(self) -> float: ...
    @property
    def fault(self) -> str | None: ...


class Grader(Protocol):
    """Who grades; `tasks.grading.judge.Judge` does, in a process of its own, where nothing can hang for ever."""

    def grade(self, problem: Problem, response: str) -> Graded: ...


Rule = Callable[[Problem, str], float]
"""A rule or a learned model."""


class Rewards:
    """Adds up the parts of a reward."""

    def __init__(
        self, grader: Grader, settings: GrpoSection, warn: Callable[[str], None], others: Sequence[tuple[float, Rule]] = ()
    ) -> None:
        """`others` are further parts and their weights."""
        self._grader, self._settings, self._warn, self._others = grader, settings, warn, others
        self._said: set[str] = set()

    def __call__(self, problem: Problem, answer: Answer) -> Reward:
        """Judge one answer."""
        settings, total, faults = self._settings, 0.0, 0
        if settings.grader_weight and problem.grader:
            graded = self._grader.grade(problem, answer.text)
            total, faults = settings.grader_weight * graded.reward, int(graded.fault is not None)
            if graded.fault is not None:
                self._say(f"the grader {problem.grader!r} {graded.fault}")
        longest = settings.max_new_tokens
        total -= settings.length_weight * length_penalty(answer.tokens, longest - 1, settings.length_margin)
        total -= settings.repetition_weight * repetition_penalty(answer.text)
        for weight, rule in self._others:
            try:
                worth = float(rule(problem, answer.text))
                if not math.isfinite(worth):
                    raise ValueError(f"gave {worth}")
            except Exception as error:  # a rule's fault must not end a training
                faults += 1
                self._say(f"a reward failed: {type(error).__name__}: {error}")
            else:
                total += weight * worth
        return Reward(total, faults)

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            self._warn(f"{reason}; it counts as 0, training goes on")
