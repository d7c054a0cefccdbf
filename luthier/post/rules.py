"""Parts of a reward that need no right answer. In: tables of `RuleConfig`, a reward model. Out: parts with weights. Next: rewards.

What could hang (a regular expression, a constraint) is asked of the grader, which has a process of its own.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence

from luthier.config.post import RuleConfig
from luthier.model.decoder import Decoder
from luthier.post.reward import rewards_of
from luthier.post.rewards import Answer, Grader, Part
from luthier.tasks.conversation import Message
from luthier.tasks.grading.constraints import checked
from luthier.tasks.grading.penalties import repetition_penalty
from luthier.tasks.problems import Problem, problem
from luthier.tokenizer.chat import render_answered
from luthier.tokenizer.tokenizer import Tokenizer


def rules(tables: Sequence[RuleConfig], grader: Grader) -> list[Part]:
    """Make a part of each rule; of those of one name, the second is `NAME_2`.

    Raises: ConfigError for a constraint whose settings are not what it takes
    """
    parts, names = list[Part](), Counter[str]()
    for table in tables:
        names[table.rule] += 1
        name = f"rule_{table.rule}" if names[table.rule] == 1 else f"rule_{table.rule}_{names[table.rule]}"
        parts.append(Part(name, table.weight, _each(_rule(table, grader))))
    return parts


def learned(model: Decoder, tokenizer: Tokenizer, system: Sequence[Message], device: str, weight: float) -> Part:
    """Make a part of a reward model: its number for the conversation that an answer ends, ended or not, all answers of a call in batches.

    What is longer than the model's context loses its beginning.
    """
    token, longest = tokenizer.special.end_of_text, model.config.max_seq_len + 1  # the last token is predicted, not read

    def says(problems: Sequence[Problem], answers: Sequence[Answer]) -> list[float]:
        asked = zip(problems, answers, strict=True)
        said = [render_answered([*one.behind(system), Message("assistant", answer.text)], tokenizer) for one, answer in asked]
        return rewards_of(model, [ids[-longest:] for ids in said], token, device)

    return Part("reward_model", weight, says)


def length_reward(tokens: int, at_least: int, at_most: int | None) -> float:
    """Give 1 in a band of lengths, and outside of it the proportion to its nearest end.

    Units: tokens
    """
    return min(1.0, tokens / at_least, math.inf if at_most is None else at_most / max(1, tokens))


def _each(rule: Callable[[Answer], float | str]) -> Callable[[Sequence[Problem], Sequence[Answer]], list[float | str]]:
    return lambda problems, answers: [rule(answer) for answer in answers]


def _rule(table: RuleConfig, grader: Grader) -> Callable[[Answer], float | str]:
    if table.rule == "length":
        return lambda answer: length_reward(answer.tokens, table.at_least, table.at_most)
    if table.rule == "ended":
        return lambda answer: float(answer.ended)
    if table.rule == "distinct":
        return lambda answer: 1.0 - repetition_penalty(answer.text)
    wanted = problem("", table.pattern, "pattern") if table.pattern is not None else _constraint(table)

    def asked(answer: Answer) -> float | str:
        graded = grader.grade(wanted, answer.text)
        return graded.reward if graded.fault is None else graded.fault

    return asked


def _constraint(table: RuleConfig) -> Problem:
    assert table.constraint is not None
    return problem("", json.dumps([[table.constraint, checked(table.constraint, table.settings)]]), "constraints")
