"""Batches that a model makes itself. In: problems, the model as it is now. Out: sampled rows with their advantages. Next: policy.

A rollout is a pure function of the weights, of the recipe's seed and of its number: each sample's seed is a hash of seed, rollout
and place in it. So a training that was killed samples the same again. Where several updates use one rollout, it is written down before
the first of them, because the weights move on.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.config.post import GrpoSection
from luthier.config.sampling import SamplingSection
from luthier.errors import CheckpointError, DataError
from luthier.generate.batch import generate_batch
from luthier.generate.chat import chat_stop_ids
from luthier.generate.engine import Completion, Engine
from luthier.model.decoder import Decoder
from luthier.pack.loader import IGNORE_INDEX, Batch, Loader, Row
from luthier.post.logprobs import Logits, token_logprobs
from luthier.post.policy import FIGURES, group_advantages, row_weights
from luthier.post.rewards import Answer, Reward
from luthier.runs.files import atomic_file, make_directory
from luthier.tasks.conversation import Message
from luthier.tasks.problems import Problem
from luthier.tokenizer.chat import render_prompt
from luthier.tokenizer.tokenizer import Tokenizer
from luthier.train.objective import micro_batches

ROWS_AT_ONCE = 64


def sample_seed(seed: int, rollout: int, place: int) -> int:
    """The seed of one sample, by its place among all of its rollout: a problem that stands there twice is answered anew."""
    text = f"{seed} {rollout} {place}".encode()
    return int.from_bytes(blake2b(text, digest_size=8, person=b"rollout").digest(), "big") >> 1


class ProblemRows:
    """Problems as rows: their prompts. A prompt that leaves no room for an answer is left out and counted in `dropped`."""

    def __init__(
        self, problems: Sequence[Problem], system: Sequence[Message], tokenizer: Tokenizer, max_new_tokens: int, context: int
    ) -> None:
        """Raises: DataError when none is left."""
        rendered = [(one, render_prompt(one.behind(system), tokenizer)) for one in problems]
        kept = [(one, ids) for one, ids in rendered if len(ids) + max_new_tokens <= context]
        if not kept:
            raise DataError(
                f"grpo: none of {len(problems)} problems leaves room for {max_new_tokens} tokens in a context of {context}",
                fix="set max_new_tokens lower, or give problems",
            )
        self.problems, self.prompts = [one for one, _ in kept], [ids for _, ids in kept]
        fits = {one.id for one, _ in kept}
        self.dropped = [one for one in problems if one.id not in fits]
        self._pad, self._room = tokenizer.special.pad, max_new_tokens

    @property
    def n_rows(self) -> int:
        return len(self.prompts)

    @property
    def seq_len(self) -> int:
        """Tokens of the longest prompt and the longest answer."""
        return max(map(len, self.prompts)) + self._room

    def row(self, index: int) -> Row:
        """A prompt, padded; it has no targets."""
        tokens = np.full(self.seq_len, self._pad, np.int64)
        tokens[: len(self.prompts[index])] = self.prompts[index]
        return tokens, np.full(self.seq_len, IGNORE_INDEX, np.int64), None

    def describe(self, index: int) -> list[dict[str, Any]]:
        """Name the problem."""
        return [{"shard": "problems", "document": index, "first_token": 0, "tokens": len(self.prompts[index])}]


@dataclass(frozen=True)
class Sampled:
    """One answer: to which prompt, what was said, and what it is worth."""

    prompt: Sequence[int]
    completion: Completion
    reward: Reward

    @property
    def said(self) -> list[int]:
        """The answer's tokens, the one that ended it included."""
        return [*self.completion.ids, *([] if self.completion.stop_id is None else [self.completion.stop_id])]


def answer_of(completion: Completion, tokenizer: Tokenizer) -> Answer:
    """What a completion says."""
    text = tokenizer.decode(completion.ids).removeprefix(tokenizer.chat.prefix).strip()
    return Answer(text, len(completion.logprobs), completion.finish_reason == "stop")


class Rollouts:
    """Samples groups of answers and turns them into a batch."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        rows: ProblemRows,
        reward: Callable[[Sequence[Problem], Sequence[Answer]], Sequence[Reward]],
        settings: GrpoSection,
        seed: int,
        reference: Decoder | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """`warn` is told, once, of a rollout that has nothing to learn from."""
        self._warn = warn
        self._engine, self._tokenizer, self._rows, self._reward = engine, tokenizer, rows, reward
        self._settings, self._seed, self._reference = settings, seed, reference
        self._without_token = frozenset(range(tokenizer.vocab_size, engine.model.config.vocab_size))

    def make(self, number: int, problems: Sequence[int]) -> Batch:
        """Sample a group of answers to each problem with the model as it is now."""
        group, rows = self._settings.group_size, self._rows
        self._engine.model.eval()
        asked = [problem for problem in problems for _ in range(group)]
        seeds = [sample_seed(self._seed, number, place) for place in range(len(asked))]
        ours = self._settings
        drawn = {"temperature": ours.temperature, "top_p": ours.top_p, "max_new_tokens": ours.max_new_tokens}
        settings = SamplingSection(top_k=0, repetition_penalty=1.0, **drawn)
        prompts = [rows.prompts[problem] for problem in asked]
        stop_ids, banned_ids = chat_stop_ids(self._tokenizer), self._without_token
        given = {"stop_ids": stop_ids, "banned_ids": banned_ids, "rows_at_once": ROWS_AT_ONCE}
        as_drawn = (ours.temperature, ours.top_p) != (1.0, 1.0)
        completions = generate_batch(self._engine, prompts, settings, seeds, as_drawn=as_drawn, **given)
        said = [answer_of(completion, self._tokenizer) for completion in completions]
        rewards = self._reward([rows.problems[problem] for problem in asked], said)
        batch = self._batch([Sampled(*one) for one in zip(prompts, completions, rewards, strict=True)])
        self._engine.model.train()
        return batch

    def _batch(self, samples: Sequence[Sampled]) -> Batch:
        settings, pad = self._settings, self._tokenizer.special.pad
        length = max(len(one.prompt) + len(one.said) for one in samples) - 1
        inputs = np.full((len(samples), length), pad, np.int64)  # (B, T), padded on the right, which nothing before it sees
        targets = np.full((len(samples), length), IGNORE_INDEX, np.int64)
        sampled = np.zeros((len(samples), length), np.float32)
        for row, one in enumerate(samples):
            tokens, start = [*one.prompt, *one.said], len(one.prompt) - 1
            inputs[row, : len(tokens) - 1] = tokens[:-1]
            targets[row, start : len(tokens) - 1] = one.said
            sampled[row, start : len(tokens) - 1] = one.completion.logprobs
        rewards = np.array([one.reward.total for one in samples]).reshape(-1, settings.group_size)  # (P, G)
        lengths = np.array([len(one.said) for one in samples])
        equal = np.ptp(rewards, axis=1) == 0
        if equal.all() and self._warn is not None:
            self._warn("a rollout whose groups all have equal rewards has nothing to learn from; training goes on")
            self._warn = None
        ended = [one.completion.stop_id is not None for one in samples]
        faults = [one.reward.faults for one in samples]
        parts = np.array([one.reward.parts for one in samples])  # (B, parts)
        figures = np.stack([rewards.ravel(), np.repeat(equal, settings.group_size), lengths, ended, faults], axis=1)
        assert figures.shape[1] == len(FIGURES)
        figures = np.concatenate([figures, parts], axis=1)  # (B, F)
        extras = {
            "advantages": group_advantages(rewards, settings.scale_by_std).ravel().astype(np.float32),
            "weights": row_weights(lengths, settings.normalise, settings.max_new_tokens).astype(np.float32),
            "figures": (figures / len(samples)).astype(np.float32),
            "sampled": sampled,
        }
        plain = Batch(inputs, targets)
        if settings.updates_per_rollout > 1:
            extras["old"] = self._logprobs(self._engine.model, plain)
        if self._reference is not None:
            extras["reference"] = self._logprobs(self._reference, plain)
        return Batch(inputs, targets, extras=extras)

    @torch.no_grad()
    def _logprobs(self, model: Decoder, batch: Batch) -> np.ndarray:
        """Log-probabilities of the answers by the trainer's own forward pass. Shapes: (B, T)"""
        found, how = list[Tensor](), Logits(model.config.logit_softcap, self._settings.temperature)
        for part in micro_batches(batch, ROWS_AT_ONCE, str(self._engine.device)):
            found.append(token_logprobs(model(part.inputs), model.head_weight, part.targets, how)[0])
        return torch.cat(found).cpu().numpy()


class RolloutLoader(Loader):
    """Gives the batches of a training whose rows its own model makes; which problems a step asks is a function of seed and step."""

    ahead = False
    """A batch needs the weights of the step before it, so none is made ahead."""

    def __init__(self, rollouts: Rollouts, rows: ProblemRows, settings: GrpoSection, seed: int, directory: Path, writes: bool) -> None:
        """`directory` is where rollouts that are used more than once are kept, by the process that `writes`."""
        super().__init__(rows, settings.prompts_per_step * settings.group_size, seed)
        self._questions = Loader(rows, settings.prompts_per_step, seed)
        self._rollouts, self._updates, self._directory, self._writes = rollouts, settings.updates_per_rollout, directory, writes
        self._latest: tuple[int, Batch] | None = None

    def rows(self, step: int) -> np.ndarray:
        """The numbers of the problems that a step's rollout asks. Shapes: (prompts_per_step,)"""
        return self._questions.rows(step // self._updates)

    def batch(self, step: int, rows: np.ndarray | None = None) -> Batch:
        """Return a step's rollout: sampled now where the step is its first, else as it was sampled then.

        Raises: CheckpointError when it was written down and is damaged or lost
        """
        number, update = divmod(step, self._updates)
        if update == 0 or self._latest is None or self._latest[0] != number:
            made = self._read(number) if update else self._rollouts.make(number, self.rows(step).tolist())
            if update == 0 and self._updates > 1 and self._writes:
                self._write(number, made)
            self._latest = number, made
        return self._latest[1]

    def best(self, count: int) -> list[tuple[float, list[int], list[int]]]:
        """The samples of the latest rollout with the highest reward: reward, prompt and answer as ids."""
        if self._latest is None:
            return []
        batch = self._latest[1]
        rewards = batch.extras["figures"][:, FIGURES.index("reward")] * len(batch.inputs)
        found: list[tuple[float, list[int], list[int]]] = []
        for row in np.argsort(-rewards, kind="stable")[:count]:
            counted = batch.targets[row] != IGNORE_INDEX
            start = int(counted.argmax()) + 1
            found.append((float(rewards[row]), batch.inputs[row, :start].tolist(), batch.targets[row, counted].tolist()))
        return found

    def forget(self, before: int) -> None:
        """Remove what was written down of rollouts that ended before a step."""
        for path in self._directory.glob("*.npz") if self._writes else ():
            if (int(path.stem) + 1) * self._updates <= before:
                path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}.npz"

    def _write(self, number: int, batch: Batch) -> None:
        arrays = io.BytesIO()
        extras: dict[str, Any] = {f"extras.{name}": array for name, array in batch.extras.items()}
        np.savez(arrays, inputs=batch.inputs, targets=batch.targets, **extras)
        make_directory(self._directory)
        with atomic_file(self._path(number)) as file:
            file.write(arrays.getvalue())

    def _read(self, number: int) -> Batch:
        path = self._path(number)
        fix = "give it back from a copy, or remove the stage's newest checkpoint and run again, one after another until it goes on"
        if not path.exists():  # sampled now, it would be by weights that have moved
            raise CheckpointError(f"{path}: the rollout is not there, and these weights would sample another", fix=fix)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                arrays: dict[str, np.ndarray] = {name: stored[name] for name in stored.files}
            extras = {name.removeprefix("extras."): array for name, array in arrays.items() if name.startswith("extras.")}
            return Batch(arrays["inputs"], arrays["targets"], extras=extras)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path}: the rollout is damaged: {error}", fix=fix) from error
