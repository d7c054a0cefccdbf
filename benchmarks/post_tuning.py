"""Fine-tuning on instructions and passages, and on preferred answers. In: texts. Out: rows for `post`.

What is asked was held out: a story of FairytaleQA is, with all its questions, either trained on or not, and no text of pretraining shares
thirteen words in a row with a story. A question counts as extractive when its answer's words stand in the passage, in one piece. An
answer is right when its words are those of the expected one, without case, articles and punctuation (SQuAD's exact match). The base is
asked in the same template, and again in plain text, of which the better counts; it may ramble on behind its first line.
Answers are greedy, with the recipe's `no_repeat_ngram` for both; how many of the tuned model's end without it is also said.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import row
from post_runs import Row, finished, seconds_of, stage_directory, summary_of

from luthier.config.sampling import SamplingSection
from luthier.data.split import keyed_hash
from luthier.generate.batch import generate_batch
from luthier.generate.chat import chat_banned_ids, chat_stop_ids
from luthier.generate.engine import Completion
from luthier.pack.conversations import ConversationRows
from luthier.runs.directory import RunDirectory
from luthier.runs.progress import progress_for
from luthier.runs.store import Store
from luthier.stages.again import where_it_ran
from luthier.stages.loading import Loaded, load_run
from luthier.tasks.build import build_conversations
from luthier.tasks.conversation import Conversation, Message
from luthier.tasks.grading.words import plain_words, same_words, shared_words
from luthier.tokenizer.chat import render_prompt
from luthier.train.objective import mean_loss

LOSS_TOKENS = 65_536
"""Held-out tokens of the response loss, questions included."""
ASKED = 400
"""At most so many held-out instructions, and held-out extractive questions, are asked: all of both."""
LONGEST = 128
"""Tokens within which an answer has to end."""
MOST_KL, MOST_BPB = 0.1, 0.02
"""How far preferences may move a model: nats per token, bits per byte of pretraining's held-out text."""


def instructions(data: Path, runs: Path) -> list[Row]:
    """A base model of 10M parameters against the same after fine-tuning."""
    run = finished(data, runs, ["instructions.toml"])
    base, tuned = load_run(run, base=True), load_run(run)
    progress = progress_for()
    rows = ConversationRows.open(stage_directory(run, "sft"), "validation")
    progress.say("response loss on held-out conversations")
    before, after = (mean_loss(one.engine.model, rows, str(one.engine.device), LOSS_TOKENS) for one in (base, tuned))
    told, passages = _questions(run, tuned)
    progress.say(f"{len(told)} instructions and {len(passages)} extractive questions")
    found = {who: [_ask(one, questions) for questions in (told, passages)] for who, one in (("base", base), ("tuned", tuned))}
    plain = _ask(base, passages, chat=False)
    at_best = max(found["base"][1], plain, key=lambda answers: (_right(answers), _alike(answers)))
    ended = {who: [100 * _ended(answers) for answers in sides] for who, sides in found.items()}
    both = {who: 100 * _ended([*sides[0], *sides[1]]) for who, sides in found.items()}
    looping = 100 * _ended(_ask(tuned, [*told, *passages], ngrams=False))
    right, at_base = 100 * _right(found["tuned"][1]), 100 * _right(at_best)
    least = max(at_base, 100 / len(passages))  # a base that finds none is taken to find one
    places = sorted(len(one.completion.ids) for one in [*found["tuned"][0], *found["tuned"][1]])
    return [
        row("response loss on held-out answers", "nats", after, "base", before, before / after, 1 / 0.7),
        row(f"answers that end within {LONGEST} tokens", "%", both["tuned"], None, 95.0, both["tuned"] / 95, 1.0),
        row("the same of the base: below 5", "%", both["base"], None, 5.0, 5 / max(both["base"], 0.1), 1.0),
        row("the same of the tuned, without `no_repeat_ngram`", "%", looping, None, None, None, None),
        row("the same, instructions only", "%", ended["tuned"][0], "base", ended["base"][0], None, None),
        row("tokens in an answer, median", "", statistics.median(places), None, None, None, None),
        row(f"extractive questions right, of {len(passages)}", "%", right, "base", at_base, right / least, 5.0),
        row("words shared with the right answer (F1)", "%", 100 * _alike(found["tuned"][1]), "base", 100 * _alike(at_best), None, None),
        row("answers that stand in the passage", "%", 100 * _copied(found["tuned"][1]), "base", 100 * _copied(at_best), None, None),
        row("pretraining", "min", seconds_of(run, ["pretrain"]) / 60, None, None, None, None),
        row("all stages", "min", seconds_of(run) / 60, None, None, None, None),
    ]


def preference(data: Path, runs: Path) -> list[Row]:
    """Polite against impolite answers, over the quickstart's chat model."""
    run = finished(data, runs, ["quickstart.toml", "dpo.toml"])
    summary = summary_of(run, "polite")
    reached, pairs = summary["validation"], summary["preferences"]["validation"]["pairs"]
    accuracy, kl, worse = 100 * reached["accuracy"], reached["kl"], reached["bpb_change"]
    return [
        row(f"preferred answers told, of {pairs} held-out pairs", "%", accuracy, None, 90.0, accuracy / 90, 1.0),
        row("divergence from the model before, a token", "nats", kl, None, MOST_KL, MOST_KL / kl, 1.0),
        row("bits per byte more than the model before", "bpb", worse, None, MOST_BPB, MOST_BPB / max(worse, 1e-6), 1.0),
        row("DPO", "min", seconds_of(run, ["polite"]) / 60, None, None, None, None),
    ]


@dataclass(frozen=True)
class Question:
    """A held-out conversation's first turn and what was expected."""

    text: str
    answer: str


@dataclass(frozen=True)
class Said:
    """What a model said to a question."""

    question: Question
    text: str
    completion: Completion


def _questions(run: RunDirectory, loaded: Loaded) -> tuple[list[Question], list[Question]]:
    """Some held-out instructions, and some held-out extractive questions; all leave room for an answer."""
    recipe = loaded.recipe
    with where_it_ran(run):
        cache = Store(run.path.parent).cache
        held_out = build_conversations(recipe.sft.sources, recipe.run.seed, recipe.sft.validation_share, cache, progress_for()).validation
    tasks = ({"fairytales"}, {"spans", "who"})
    read, drilled = ({source.label for source in recipe.sft.sources if source.task in named} for named in tasks)
    asked = [
        (one.source in read, question) for one in held_out if one.source not in drilled for question in _turns(one, one.source in read)
    ]
    extractive = [question for reading, question in asked if reading and _stands(question.answer, _passage(question.text))]
    sides = ([question for reading, question in asked if not reading], extractive)
    told, passages = ([one for one in side if len(_prompt(one, loaded)) <= loaded.engine.max_context - LONGEST] for side in sides)
    return _some(told, recipe.run.seed), _some(passages, recipe.run.seed)


def _turns(one: Conversation, reading: bool) -> list[Question]:
    """What a conversation asks; a passage is put above each question about it, as if that were the first."""
    first, answer = (message.content for message in one.messages[:2])
    found = [Question(first, answer)]
    for question, answer in zip(one.messages[2::2], one.messages[3::2], strict=True) if reading else ():
        found.append(Question(f"{_passage(first)}\n\n{question.content}", answer.content))
    return found


def _some(questions: Sequence[Question], seed: int) -> list[Question]:
    """At most `ASKED` of them, the same each time."""
    return sorted(questions, key=lambda one: keyed_hash(seed, f"ask {one.text}"))[:ASKED]


def _prompt(question: Question, loaded: Loaded) -> list[int]:
    """A question in the chat template."""
    return render_prompt([Message("user", question.text)], loaded.tokenizer)


def _passage(text: str) -> str:
    """What stands above the question."""
    return text.rpartition("\n\n")[0]


def _stands(answer: str, passage: str) -> bool:
    """Whether an answer's words stand in a passage, one behind the other."""
    return bool(plain_words(answer)) and f" {plain_words(answer)} " in f" {plain_words(passage)} "


def _ask(loaded: Loaded, questions: Sequence[Question], chat: bool = True, ngrams: bool = True) -> list[Said]:
    """Ask all questions greedily: in the chat template, or as the beginning of a text; with the recipe's `no_repeat_ngram`, or without."""
    tokenizer, engine = loaded.tokenizer, loaded.engine
    prompts: list[list[int]] = []
    for question in questions:
        if chat:
            prompts.append(_prompt(question, loaded))
        else:
            prompts.append([tokenizer.special.end_of_text, *tokenizer.encode(f"{question.text}\n")])
    again = loaded.recipe.sampling.no_repeat_ngram if ngrams else 0
    greedy = SamplingSection(temperature=0, repetition_penalty=1.0, no_repeat_ngram=again, max_new_tokens=LONGEST)
    banned = chat_banned_ids(tokenizer, engine.model.config.vocab_size)
    stops = chat_stop_ids(tokenizer)
    said = generate_batch(engine, prompts, greedy, [1] * len(prompts), stop_ids=stops, banned_ids=banned, rows_at_once=32)
    return [Said(question, tokenizer.decode(one.ids).strip(), one) for question, one in zip(questions, said, strict=True)]


def _ended(answers: Sequence[Said]) -> float:
    """Share of answers that ended by themselves."""
    return statistics.mean(one.completion.finish_reason == "stop" for one in answers)


def _right(answers: Sequence[Said]) -> float:
    """Share of answers whose first line has the words of the right one."""
    return statistics.mean(same_words(_first_line(one.text), one.question.answer) for one in answers)


def _alike(answers: Sequence[Said]) -> float:
    """Mean F1 of the words of first line and right answer."""
    return statistics.mean(shared_words(_first_line(one.text), one.question.answer) for one in answers)


def _copied(answers: Sequence[Said]) -> float:
    """Share of answers whose first line stands in the passage, whether it is right or not."""
    return statistics.mean(_stands(_first_line(one.text), _passage(one.question.text)) for one in answers)


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
