"""Problems with an answer that can be checked. In: raw records, or a seed. Out: prompt, answer, grader. Next: grading, and room post."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from luthier.errors import ConfigError
from luthier.tasks import auto, fields, messages
from luthier.tasks.choices import lettered
from luthier.tasks.conversation import Message, Unfit, content_id, in_turn
from luthier.tasks.grading.constraints import misfit, whole
from luthier.tasks.grading.number import final_number, last_box
from luthier.tasks.questions import without_annotations

_MOST_SUMS = 10**5
UNSEEN_SHARE = 0.2
"""Share of the pairs of numbers that are never trained on. SFT and GRPO of one seed keep the same ones apart."""
OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is asked, what is right, and which grader says so (none where there is no right); `id` hashes all three."""

    prompt: tuple[Message, ...]
    answer: str
    grader: str
    id: str
    place: str = field(default="", compare=False)
    """File and line, or record, of what it was made of."""

    def behind(self, system: Iterable[Message]) -> list[Message]:
        """The prompt behind a system message, unless it has its own."""
        return [*(() if self.prompt[0].role == "system" else system), *self.prompt]


def problem(question: str | Iterable[Message], answer: str, grader: str) -> Problem:
    """Make a problem and name it by its content."""
    prompt = (Message("user", question),) if isinstance(question, str) else tuple(question)
    named = content_id((*(f"{message.role}\0{message.content}" for message in prompt), answer, grader))
    return Problem(prompt, answer, grader, named)


def of_words(record: Mapping[str, Any]) -> Problem:
    """Read a word problem with `question` and `answer`, whose last line may be `#### 42` as in GSM8K; its number is graded.

    Raises: Unfit
    """
    question, answer = fields.text(record, "question", "question"), fields.text(record, "answer", "answer")
    return problem(question, without_annotations(answer).rpartition("####")[2].strip(), "number")


def of_mathematics(record: Mapping[str, Any]) -> Problem:
    r"""Read `problem` and `solution` as in MATH; what the solution's last \boxed holds is graded.

    Raises: Unfit
    """
    answer = last_box(fields.text(record, "solution", "answer"))
    if not answer:
        raise Unfit("no_answer")
    return problem(fields.text(record, "problem", "question"), answer, "boxed")


def of_choices(record: Mapping[str, Any]) -> Problem:
    """Read `question`, `options` and the number, letter or text of the right one in `answer`.

    Raises: Unfit
    """
    question, letter, text = lettered(record)
    return problem(question, f"{letter}\n{text}", "choice")


def of_questions(record: Mapping[str, Any]) -> Problem:
    """Read `question` and `answer` in words; case, punctuation and articles do not count.

    Raises: Unfit
    """
    question, answer = fields.text(record, "question", "question"), fields.text(record, "answer", "answer")
    return problem(question, " ".join(answer.split()), "words")


def of_constraints(record: Mapping[str, Any]) -> Problem:
    """Read `prompt`, `instruction_id_list` and `kwargs` as in IFEval; the share of constraints that are met is graded.

    Raises: Unfit, also for a constraint that is unknown, or whose settings are not what it takes
    """
    names, settings = record.get("instruction_id_list"), record.get("kwargs")
    if not isinstance(names, list) or not isinstance(settings, list) or not names:
        raise Unfit("no_answer")
    names, settings = cast(list[Any], names), cast(list[Any], settings)
    if len(names) != len(settings):
        raise Unfit("wrong_settings")
    wanted = [[name, _given(settings)] for name, settings in zip(names, settings, strict=True)]
    for name, given in wanted:
        if wrong := misfit(name, given):
            raise Unfit(wrong)
    return problem(fields.text(record, "prompt", "question"), json.dumps(wanted, ensure_ascii=False, sort_keys=True), "constraints")


def _given(settings: object) -> object:
    """Settings without those that are null, as a table of all constraints has them, and with whole numbers as such."""
    if not isinstance(settings, dict):
        return {} if settings is None else settings
    return whole({key: value for key, value in cast(dict[str, Any], settings).items() if value is not None})


def of_programs(record: Mapping[str, Any]) -> Problem:
    """Read a task for a program and its tests: `text` or `prompt` with `test_list` as in MBPP, or with `test` and `entry_point`.

    Raises: Unfit
    """
    asked = fields.text(record, ("text", "prompt"), "question")
    if record.get("test_list") is not None:
        before = fields.optional(record, "test_setup_code")
        tests = "\n".join([*([before] if before else []), *(fields.clean(test) for test in fields.items(record, "test_list"))])
    else:
        tests = f"{fields.text(record, 'test', 'answer')}\n\ncheck({fields.text(record, 'entry_point', 'answer')})"
    if not tests.strip():
        raise Unfit("empty_answer")
    return problem(asked, tests, "program")


def of_prompts(record: Mapping[str, Any]) -> Problem:
    """Read a conversation of any shape up to its last answer, or what is asked alone; nothing is graded, the reward comes from elsewhere.

    What is asked alone are messages that end with the user's, or `prompt`, `question` or `instruction` (with `input`).
    Raises: Unfit
    """
    for name in ("prompt", "messages"):
        if isinstance(record.get(name), list):
            turns = messages.named_turns(fields.items(record, name), "role", "content", messages.ROLES)
            if turns and turns[-1][0] == "user":
                turns.append(("assistant", "-"))
            return problem(in_turn(turns, "").messages[:-1], "", "")
    if any(fields.has(record, task.FIELDS) for task in auto.BY_FIELDS.values()):
        for one in auto.conversations(record, ""):
            return problem(one.messages[:-1], "", "")
        raise Unfit("no_conversation")
    asked = fields.text(record, ("prompt", "question", "instruction"), "question")
    given = fields.optional(record, "input")
    return problem(f"{asked}\n\n{given}" if given else asked, "", "")


READERS: Mapping[str, Callable[[Mapping[str, Any]], Problem]] = {
    "word_problems": of_words,
    "mathematics": of_mathematics,
    "choices": of_choices,
    "questions": of_questions,
    "constraints": of_constraints,
    "programs": of_programs,
    "prompts": of_prompts,
}


def read_problems(
    records: Iterable[Mapping[str, Any]], kind: str, drop: Callable[[str], None] | None = None, grader: str | None = None
) -> Iterator[Problem]:
    """Make a problem of each record, by one of `READERS`; one that does not fit is left out, and `drop` is told why.

    `grader` is another one than the reader's. One that compares numbers needs a number in the answer.
    Raises: ConfigError for a kind that is unknown
    """
    if kind not in READERS:
        raise ConfigError(f"problems are one of {', '.join(READERS)}, got {kind!r}")
    for record in records:
        try:
            made = READERS[kind](record)
            made = made if grader is None else problem(made.prompt, made.answer, grader)
            if made.grader == "number" and not final_number(made.answer):
                raise Unfit("no_number")
            yield made
        except Unfit as unfit:
            if drop is not None:
                drop(str(unfit))


def arithmetic(seed: int, digits: int = 2, operations: str = "+") -> tuple[list[Problem], list[Problem]]:
    """Make all sums of numbers with so many digits, shuffled by the seed: those to train on, and a fifth never to.

    A sum and the same with its numbers changed about stand on one side, so no unseen sum is half known. Of more than 100,000 pairs
    of numbers so many are drawn.
    Raises: ConfigError for another operation than `+`, `-`, `*`, or no digits
    """
    if digits < 1 or not operations or any(operation not in OPERATIONS for operation in operations):
        raise ConfigError(f"arithmetic needs a digit or more and some of {' '.join(OPERATIONS)}, got {digits} and {operations!r}")
    chance = random.Random(seed)
    low, high = (10 ** (digits - 1) if digits > 1 else 0), 10**digits
    span = range(low, high)
    if len(span) ** 2 <= _MOST_SUMS:
        pairs = [(a, b) for a in span for b in span]
    else:
        pairs = sorted({(chance.randrange(low, high), chance.randrange(low, high)) for _ in range(_MOST_SUMS)})
    sides: tuple[list[Problem], list[Problem]] = ([], [])
    unseen: dict[tuple[int, int], bool] = {}
    for a, b in pairs:
        key = (min(a, b), max(a, b))
        if key not in unseen:
            unseen[key] = chance.random() < UNSEEN_SHARE
        for operation in operations:
            sides[unseen[key]].append(problem(f"{a} {operation} {b} =", str(OPERATIONS[operation](a, b)), "number"))
    for side in sides:
        chance.shuffle(side)
    return sides


def sums(seed: int, digits: int, operations: str) -> Iterator[dict[str, str]]:
    """Give the sums to train on as records with `question` and `answer`."""
    for one in arithmetic(seed, digits, operations)[0]:
        yield {"question": one.prompt[0].content, "answer": one.answer}
