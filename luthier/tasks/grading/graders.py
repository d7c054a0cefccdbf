"""The graders by name. In: a name. Out: a function of response and answer that gives a reward in [0, 1]. Next: judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from luthier.tasks.grading.boxed import boxed
from luthier.tasks.grading.constraints import all_constraints, constraints
from luthier.tasks.grading.number import number
from luthier.tasks.grading.program import program
from luthier.tasks.grading.words import choice, exact, pattern, same_words, shared_words

Grader = Callable[[str, str], float]

GRADERS: Mapping[str, Grader] = {
    "exact": exact,
    "words": same_words,
    "shared_words": shared_words,
    "number": number,
    "boxed": boxed,
    "choice": choice,
    "pattern": pattern,
    "constraints": constraints,
    "all_constraints": all_constraints,
    "program": program,
}
RUNS_CODE = frozenset({"program"})
"""Graders that run what the model wrote; a judge refuses them unless it is told to allow it."""
