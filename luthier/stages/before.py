"""What a model did before a stage changed it. In: the model a stage begins with. Out: bits per byte and answers, measured once. Next: dpo.

They stand in the stage's `before.json`, so that a stage that goes on after a stop compares with the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

from luthier.evals.bits_per_byte import evaluate
from luthier.generate.engine import Engine
from luthier.model.decoder import Decoder
from luthier.pack.shards import TokenShards
from luthier.runs.files import read_json, write_json
from luthier.stages.stage import Job, follows
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import render_prompt
from luthier.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Before:
    """A model's bits per byte on the held-out text of pretraining, and its answers to the sample prompts."""

    bpb: float
    answers: list[tuple[str, str]]


class Onlooker:
    """Measures a model that is being trained as it was measured before."""

    def __init__(
        self,
        job: Job,
        model: Decoder,
        tokenizer: Tokenizer,
        device: str,
        eval_tokens: int,
        prompts: Sequence[str],
        system: Sequence[Message],
    ) -> None:
        self._job, self._tokenizer, self._prompts, self._system = job, tokenizer, prompts, system
        self._engine = Engine(model, device, None, model.config.max_seq_len)
        shards = TokenShards.open(job.inputs["pack"], "validation")
        masked = job.recipe.pretrain.document_mask
        self._evaluate = partial(evaluate, model, shards, tokenizer.byte_lengths, device, eval_tokens, document_mask=masked)
        self.before = self._look_once()

    def _look_once(self) -> Before:
        path = self._job.directory / "before.json"
        known = read_json(path)
        if isinstance(known, dict):
            return Before(known["bpb"], [(prompt, text) for prompt, text in known["answers"]])
        if follows():
            return Before(0.0, [])  # only the leading rank measures
        before = Before(self.bpb(), self.answers())
        write_json(path, asdict(before))
        for prompt, text in before.answers:
            self._job.progress.sample("before", f"{prompt} {text}")
        return before

    def bpb(self) -> float:
        """Bits per byte now."""
        return float(self._evaluate()["val_bpb"])

    def regression(self) -> dict[str, float]:
        """Bits per byte now, and by how much they are more than before."""
        now = self.bpb()
        return {"val/bpb": now, "val/bpb_change": now - self.before.bpb}

    def answers(self) -> list[tuple[str, str]]:
        """The sample prompts and what the model says to them now."""
        special, said = self._tokenizer.special, list[tuple[str, str]]()
        stop = frozenset({special.end_of_turn, special.end_of_text})
        for prompt in self._prompts:
            ids = render_prompt([*self._system, Message("user", prompt)], self._tokenizer)
            completion = self._engine.generate(ids, self._job.recipe.sampling, stop_ids=stop, seed=self._job.recipe.run.seed)
            said.append((prompt, self._tokenizer.decode(completion.ids).strip()))
        return said

    def found(self) -> list[tuple[str, str, str]]:
        """For the report: each prompt with its answers before and after."""
        if follows():
            return []
        pairs = zip(self.before.answers, self.answers(), strict=True)
        return [row for (prompt, old), (_, new) in pairs for row in ((prompt, "before", old), (prompt, "after", new))]
