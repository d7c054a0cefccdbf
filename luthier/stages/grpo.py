"""Stage kind grpo: problems -> a model that solves more of them. In: the model before. Out: checkpoints, metrics, samples. Next: eval."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config.post import GrpoSection, ProblemSourceConfig
from luthier.config.schema import Recipe
from luthier.errors import DataError
from luthier.stages.reward import reward_checkpoint
from luthier.stages.stage import Job, Outcome, Stage, follows
from luthier.stages.tuning import fingerprints, prompted_settings, system_messages
from luthier.tasks.conversation import Message
from luthier.tasks.grading.constraints import checked
from luthier.tasks.problems import Problem

if TYPE_CHECKING:
    from luthier.generate.engine import Engine
    from luthier.post.rewards import Part, Rewards
    from luthier.post.rollouts import ProblemRows, RolloutLoader
    from luthier.tasks.grading.judge import Judge
    from luthier.tokenizer.tokenizer import Tokenizer
    from luthier.train.device import Compute


def _sources(section: GrpoSection, cache: Path) -> dict[str, str]:
    """What is read, and a reward model from elsewhere, which is known by its weights wherever it lies."""
    from luthier.runs.manifest import read_manifest
    from luthier.train.checkpoint import MANIFEST

    found = fingerprints(((i, source) for i, source in enumerate(section.sources) if not source.builtin), cache)
    others = fingerprints(((i, source) for i, source in enumerate(section.eval_sources) if not source.builtin), cache)
    found |= {f"eval_{name}": value for name, value in others.items()}
    if section.reward_model is not None and section.reward_stage is None:
        manifest = read_manifest(reward_checkpoint(Path(section.reward_model)) / MANIFEST)
        assert manifest is not None
        found["reward_model"] = str(manifest["weights_sha256"])
    return found


def _settings(section: GrpoSection, recipe: Recipe) -> dict[str, Any]:
    settings = prompted_settings("grpo", section, recipe)
    settings["grpo"].pop("reward_model", None)
    return settings


def build_problems(section: GrpoSection, seed: int, cache: Path) -> tuple[list[Problem], list[Problem], list[dict[str, Any]]]:
    """Read or make all problems: those to train on, those that are never trained on, and a row of counts for each source.

    Raises: DataError when a side has none
    """
    train, unseen, counts, seen, asked = list[Problem](), list[Problem](), list[dict[str, Any]](), set[str](), set[tuple[Message, ...]]()
    for source in section.eval_sources:
        others, held_out, row = _problems(source, seed, section.validation_share, cache, seen, set())
        found = held_out if source.builtin else [*others, *held_out]
        asked |= {one.prompt for one in found}
        found = _limited(found, source.limit, seed)
        unseen += found
        counts.append({**row, "problems": 0, "unseen": len(found)})
    for source in section.sources:
        share = 0.0 if section.eval_sources else section.validation_share
        known, held_out, row = _problems(source, seed, share, cache, seen, asked)
        known = _limited(known, source.limit, seed)
        held_out = [] if section.eval_sources else held_out
        train, unseen = [*train, *known], [*unseen, *held_out]
        counts.append({**row, "problems": len(known), "unseen": len(held_out)})
    if not train or not unseen:
        raise DataError(f"grpo: there must be problems to train on and unseen ones, got {len(train)} and {len(unseen)}", fix="add problems")
    return train, sorted(unseen, key=lambda one: hashlib.blake2b(one.id.encode()).digest())[: section.eval_problems], counts


def _limited(problems: list[Problem], limit: int | None, seed: int) -> list[Problem]:
    """So many of them, chosen by keyed hash; without a limit all, as they stand."""
    from luthier.data.split import keyed_hash

    return problems if limit is None else sorted(problems, key=lambda one: keyed_hash(seed, f"limit {one.id}"))[:limit]


def _problems(
    source: ProblemSourceConfig, seed: int, share: float, cache: Path, seen: set[str], asked: Set[tuple[Message, ...]]
) -> tuple[list[Problem], list[Problem], dict[str, Any]]:
    """A source's problems that no other had, the share that is held out apart (of sums always the same), and what became of its records.

    What `asked` holds is left out, with whatever answer.
    """
    from luthier.data.reading.sources import read_source
    from luthier.data.report import SourceReport, place_of
    from luthier.data.split import keyed_hash
    from luthier.tasks.problems import arithmetic, read_problems

    if source.builtin:
        known, held_out = arithmetic(seed, source.digits, source.operations)
        return [one for one in known if one.prompt not in asked], held_out, {"name": source.label}
    report = SourceReport(source.label)
    sides: tuple[list[Problem], list[Problem]] = [], []
    for one in read_problems(read_source(source, cache, report), source.problems, report.leave_out, source.grader):
        if one.id in seen or one.prompt in asked:
            report.drop("duplicate")
            continue
        seen.add(one.id)
        asks = "\n\n".join(f"{message.role}: {message.content}" for message in one.prompt)  # one side for all its answers
        sides[keyed_hash(seed, asks) < share * 2**64].append(replace(one, place=place_of(report.where())))
    about = {"name": source.label, "licence": source.licence, "attribution": source.attribution}
    return *sides, {**about, **report.counts(), "left_out": report.left_out}


def _measure(engine: Engine, tokenizer: Tokenizer, rewards: Rewards, unseen: ProblemRows, section: GrpoSection) -> dict[str, float]:
    """Answer unseen problems greedily: the mean reward, the share ended, the length; of those with a grader the share wholly right."""
    from luthier.config.sampling import SamplingSection
    from luthier.generate.batch import generate_batch
    from luthier.generate.chat import chat_banned_ids, chat_stop_ids
    from luthier.post.rollouts import answer_of

    greedy = SamplingSection(temperature=0, repetition_penalty=1.0, max_new_tokens=section.max_new_tokens)
    stop_ids, banned_ids = chat_stop_ids(tokenizer), chat_banned_ids(tokenizer, engine.model.config.vocab_size)
    completions = generate_batch(engine, unseen.prompts, greedy, [0] * unseen.n_rows, stop_ids=stop_ids, banned_ids=banned_ids)
    said = [answer_of(one, tokenizer) for one in completions]
    found = rewards(unseen.problems, said)
    graded = [one.grade for one in found if one.grade is not None]
    mean = sum(one.total for one in found) / len(found)
    return {
        "val/loss": 1.0 - mean,
        "val/reward": mean,
        **{f"val/{part.name}": sum(one.parts[i] for one in found) / len(found) for i, part in enumerate(rewards.parts)},
        **({"val/exact": sum(grade == 1.0 for grade in graded) / len(graded)} if graded else {}),
        "val/ended": sum(answer.ended for answer in said) / len(said),
        "val/length": sum(answer.tokens for answer in said) / len(said),
    }


def _best(loader: RolloutLoader, tokenizer: Tokenizer, count: int) -> list[tuple[str, str]]:
    """The answers of the latest rollout with the highest reward, for eyes that know a reward being tricked when they see it."""
    return [
        (f"reward {reward:.3f}: {tokenizer.decode(prompt)}", tokenizer.decode(said).strip()) for reward, prompt, said in loader.best(count)
    ]


def _last_best(job: Job, section: GrpoSection) -> list[tuple[str, str, str]]:
    """The same of the last step, for the report: from the log, which outlasts a kill between that step and the stage's end."""
    from luthier.runs.metrics import read_metrics

    last = [row for row in read_metrics(job.directory / "samples.jsonl") if row["step"] == section.steps]
    return [(row["prompt"], "highest reward", row["text"]) for row in last[len(section.sample_prompts) :]]


def _parts(job: Job, section: GrpoSection, judge: Judge, tokenizer: Tokenizer, system: Sequence[Message], compute: Compute) -> list[Part]:
    """The parts of the reward beside the grader's: rules, and the reward model."""
    from luthier.post.rules import learned, rules
    from luthier.stages.sft import require_same_template
    from luthier.stages.training import final_checkpoint
    from luthier.train.checkpoint import load_model

    parts = rules(section.rules, judge)
    if section.reward_model is None:
        return parts
    stage = section.reward_stage
    path = reward_checkpoint(Path(section.reward_model)) if stage is None else final_checkpoint(job.inputs[stage])
    model, its_own = load_model(path, compute.device)
    require_same_template(tokenizer, its_own, path)
    model.compute_dtype, model.attention = compute.dtype, compute.attention
    return [*parts, learned(model.eval(), tokenizer, system, compute.device, section.reward_weight)]


def _run(job: Job, section: GrpoSection, before: str) -> Outcome:
    from luthier.generate.engine import Engine
    from luthier.optim.schedule import course
    from luthier.pack.conversations import MOST_EXAMPLES
    from luthier.post.adapters import low_rank
    from luthier.post.policy import PolicyObjective
    from luthier.post.rewards import Rewards
    from luthier.post.rollouts import ProblemRows, RolloutLoader, Rollouts
    from luthier.stages.attention import choose_attention
    from luthier.stages.before import Onlooker
    from luthier.stages.recorder import Training
    from luthier.stages.training import final_checkpoint, run_training, settle_compute
    from luthier.tasks.grading.judge import Judge
    from luthier.tokenizer.tokenizer import Tokenizer
    from luthier.train.checkpoint import checkpoints, load_model, step_of

    recipe, base, seed = job.recipe, final_checkpoint(job.inputs[before]), job.recipe.run.seed
    tokenizer = Tokenizer.load(job.inputs["tokenizer"] / "tokenizer.json")
    system = system_messages(section.system_prompt or recipe.sft.system_prompt)
    train, unseen, counts = build_problems(section, seed, job.cache)
    model, _ = load_model(base)
    rows, held_out = (
        ProblemRows(problems, system, tokenizer, section.max_new_tokens, model.config.max_seq_len) for problems in (train, unseen)
    )
    if dropped := [*rows.dropped, *held_out.dropped]:
        where = ", ".join(one.place for one in dropped[:MOST_EXAMPLES] if one.place)
        first, of = f", the first at {where}" if where else "", len(train) + len(unseen)
        job.progress.warn(f"{section.name}: {len(dropped)} of {of} problems leave no room for an answer{first}; left out")
    tokens = section.prompts_per_step * section.group_size * rows.seq_len
    # Rows are as long as the longest answer, which differs from step to step: compiling for each length takes longer than it saves.
    compiles = "off" if section.compile == "auto" else section.compile
    settings = section.model_copy(update={"global_batch_tokens": tokens, "compile": compiles})
    attention = partial(choose_attention, job=job, settings=settings, config=model.config, documents=False)
    compute = settle_compute(job, settings, section.steps * tokens, model.config.n_layers, attention)
    reference = load_model(base, compute.device)[0].eval() if section.kl_coef else None
    for one in (model, reference) if reference is not None else (model,):
        one.compute_dtype, one.attention = compute.dtype, compute.attention
        one.to(compute.device)
    engine = Engine(model, compute.device)
    onlooker = Onlooker(job, model, tokenizer, compute.device, section.eval_tokens, section.sample_prompts, system)

    def warn(text: str) -> None:
        job.progress.warn(f"{section.name}: {text}")

    with Judge(section.judge_seconds, section.allow_code) as judge:
        rewards = Rewards(judge, section, warn, _parts(job, section, judge, tokenizer, system, compute))
        rollouts = Rollouts(engine, tokenizer, rows, rewards, section, seed, reference, warn)
        loader = RolloutLoader(rollouts, rows, section, seed, job.directory / "rollouts", writes=not follows())

        def validate() -> dict[str, float]:
            kept = checkpoints(job.directory / "checkpoints")
            loader.forget(step_of(kept[0]) if kept else 0)
            return {**_measure(engine, tokenizer, rewards, held_out, section), **onlooker.regression()}

        def sample() -> list[tuple[str, str]]:
            return [*onlooker.answers(), *_best(loader, tokenizer, section.keep_answers)]

        start = _measure(engine, tokenizer, rewards, held_out, section)
        right = f", {start['val/exact']:.1%} right" if "val/exact" in start else ""
        job.progress.say(
            f"{section.name}: before it {held_out.n_rows} unseen problems have a mean reward of {start['val/reward']:.3f}{right}"
        )
        optim, names = section.settle_optim(recipe.optim), [part.name for part in rewards.parts]
        given = (job, section.name, settings, optim, model, tokenizer, rows, section.steps, compute, course(section, section.steps))
        objective, optimizer = PolicyObjective(section, warn, model.config.logit_softcap, names), low_rank(section, seed)
        training = Training(*given, validate, sample, objective=objective, optimizer=optimizer, loader=loader)
        outcome = run_training(training)
    loader.forget(section.steps)
    summary = {"problems": counts, "before": start, "faults": dict(judge.faults), "found": [*onlooker.found(), *_last_best(job, section)]}
    return Outcome(outcome.fingerprint, {**summary, **outcome.summary})


def stage_after(section: GrpoSection, before: str) -> Stage:
    """Reinforcement learning of `[[post]]`, which begins with the model of the stage `before`.

    Raises: ConfigError for a rule with a constraint whose settings are not what it takes
    """
    for rule in section.rules:
        if rule.constraint is not None:
            checked(rule.constraint, rule.settings)
    return Stage(
        section.name,
        ("tokenizer", "pack", before, *([section.reward_stage] if section.reward_stage else [])),
        lambda job: _run(job, section, before),
        lambda recipe: _settings(section, recipe),
        lambda recipe, cache: _sources(section, cache),
        trains=True,
        version=2,  # seeds by place, a prompt on one side with all its answers
    )
