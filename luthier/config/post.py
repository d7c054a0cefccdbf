"""What is done with a base model after fine-tuning. In: `[[post]]`. Out: frozen values. Next: schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.config.data import SourceConfig
from luthier.config.model import ModelSection
from luthier.config.section import Positive, Section, Share, is_one, unset
from luthier.config.sft import SftSection, TaskName, TuningSection, refuse_idle

RESERVED = ("data", "tokenizer", "pack", "pretrain", "sft", "eval", "export", "report", "cache", "checkpoints", "logs")
"""Names that a stage of `[[post]]` may not have: they are taken in the store or in a run's directory."""
_STAGE_NAME = r"^[a-z0-9][a-z0-9_-]{0,31}$"
StageName = Annotated[str, Field(pattern=_STAGE_NAME)]
GraderName = Literal["exact", "words", "shared_words", "number", "boxed", "constraints", "all_constraints"]
_GRADERS: Mapping[str, tuple[GraderName, ...]] = {
    **dict.fromkeys(("word_problems", "mathematics", "questions"), ("exact", "words", "shared_words", "number", "boxed")),
    "constraints": ("constraints", "all_constraints"),
}
ConstraintName = Literal[
    "keywords:existence",
    "keywords:frequency",
    "keywords:forbidden_words",
    "keywords:letter_frequency",
    "language:response_language",
    "length_constraints:number_sentences",
    "length_constraints:number_paragraphs",
    "length_constraints:number_words",
    "length_constraints:nth_paragraph_first_word",
    "detectable_content:number_placeholders",
    "detectable_content:postscript",
    "detectable_format:number_bullet_lists",
    "detectable_format:constrained_response",
    "detectable_format:number_highlighted_sections",
    "detectable_format:multiple_sections",
    "detectable_format:json_format",
    "detectable_format:title",
    "combination:two_responses",
    "combination:repeat_prompt",
    "startend:end_checker",
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "punctuation:no_comma",
    "startend:quotation",
]
"""IFEval's constraints (`tasks.grading.constraints`)."""


class PostSftSection(SftSection):
    """A further fine-tuning on conversations, such as one that teaches to stop."""

    speaks: ClassVar[bool] = True
    kind: Literal["sft"]
    """Which of `[[post]]`'s tables this is."""
    name: StageName
    """The stage's name, in the run and on the command line."""


class PreferenceSourceConfig(SourceConfig):
    """A source of pairs of answers, one preferred: records with `chosen`, `rejected`, and `prompt`, `question` or `instruction`."""

    task: TaskName | None = Field(default=None, exclude_if=unset)
    """Make pairs of conversations, which this task reads, as in `[sft]`: chosen is a conversation's last answer, rejected another one's."""
    limit: Positive | None = None
    """Use at most so many pairs, chosen by keyed hash."""

    @model_validator(mode="after")
    def _read(self) -> PreferenceSourceConfig:
        if self.task in ("personality", "arithmetic"):
            raise ValueError(f"`task` must be one that reads records; {self.task!r} makes its own")
        return self

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class PostTrainingSection(TuningSection):
    """What the trainings of `[[post]]` that are no fine-tuning have in common."""

    speaks: ClassVar[bool] = True
    name: StageName
    """The stage's name, in the run and on the command line."""
    eval_every: Positive = 20
    """Steps between measurements on what is held out."""
    sample_every: Positive = 20
    """Steps between live samples."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings of next-token training that mean nothing here."""
        return ("label_smoothing", "z_loss")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> PostTrainingSection:
        given = [name for name in self.unused if getattr(self, name)]
        if given:
            raise ValueError(f"{', '.join(given)}: this training does not know that setting")
        return self


class PairsSection(PostTrainingSection):
    """What trainings on pairs of answers, of which one is preferred, have in common."""

    sources: tuple[PreferenceSourceConfig, ...] = Field(min_length=1)
    """Tables of `PreferenceSourceConfig`."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the pairs."""
    seq_len: Positive | None = None
    """Tokens in a row, which holds both sides of a pair; default: twice `pack.seq_len`, to which each side is held."""
    validation_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    """Share of prompts held out, chosen by keyed hash of the content."""
    system_prompt: str | None = None
    """Put in front of every prompt that has no system message of its own; default: that of `sft`."""


class DpoSection(PairsSection):
    """Training on preferred answers themselves: DPO and its relatives."""

    kind: Literal["dpo"]
    """Which of `[[post]]`'s tables this is."""
    loss: Literal["sigmoid", "ipo", "orpo", "simpo"] = "sigmoid"
    """`sigmoid` is DPO's own; `orpo` and `simpo` need no reference. `post.preference` has the formulas."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull to the reference; `orpo`: weight of the odds; `simpo`: scale of the rewards, usually 2."""
    gamma: float = Field(default=0.5, ge=0)
    """`simpo`: margin that the chosen answer should have."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """`sigmoid`, `simpo`: share of pairs that are taken to be the wrong way round."""

    @property
    def needs_reference(self) -> bool:
        """Whether the loss looks at the log-probabilities of the model before."""
        return self.loss in ("sigmoid", "ipo")

    @property
    def unused(self) -> tuple[str, ...]:
        """Labels are smoothed where a loss is a logistic one."""
        return ("z_loss",) if self.loss in ("sigmoid", "simpo") else super().unused


class RewardSection(PairsSection):
    """A model that gives an answer a number, for a training with rewards; what follows begins with the model before it."""

    speaks: ClassVar[bool] = False
    kind: Literal["reward"]
    """Which of `[[post]]`'s tables this is."""
    centre: float = Field(default=0.01, ge=0)
    """Weight of the squared sum of a pair's rewards, which keeps them around zero."""


class DistillSection(PostTrainingSection):
    """Learning a larger model's distribution of each next token; the two have the same tokenizer."""

    kind: Literal["distill"]
    """Which of `[[post]]`'s tables this is."""
    teacher: str | None = Field(default=None, min_length=1)
    """The larger model: a run's directory, a stage's output, or a checkpoint; default: the model before, where there is a `student`."""
    student: ModelSection | None = Field(default=None, exclude_if=unset)
    """A table as `[model]`: a new model of this shape learns, instead of the model before. It wants a learning rate as in pretraining."""
    rows: Literal["pretrain", "sft"] = "pretrain"
    """What it learns on: the rows of pretraining, or the conversations of `[sft]`."""
    mix: Share = 0.5
    """Weight of the divergence from the teacher; the rest is that of plain cross-entropy."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Flattens both distributions in the divergence, which is multiplied by its square."""
    steps: Positive | None = None
    """Optimizer steps; default: as `epochs` says."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the rows."""

    @model_validator(mode="after")
    def _one_learns_from_another(self) -> DistillSection:
        if self.teacher is None and self.student is None:
            raise ValueError("give `teacher`, a larger model's run, or `student`, the shape of a new model that learns from the one before")
        if self.student is not None and self.lora_rank:
            raise ValueError("a new `student` has nothing that adapters could leave as it is")
        return self


class ProblemSourceConfig(SourceConfig):
    """A source of problems whose answers can be checked."""

    problems: Literal["arithmetic", "word_problems", "mathematics", "choices", "questions", "constraints", "programs", "prompts"]
    """What reads the records (`tasks.problems`). `arithmetic` makes its own and needs no path; `programs` need `allow_code`; `prompts` have
    no answer, so their reward is what the other parts of it say."""
    digits: Positive = 2
    """`arithmetic`: digits of each number."""
    operations: str = Field(default="+", pattern=r"^[-+*]+$")
    """`arithmetic`: some of `+`, `-`, `*`."""
    limit: Positive | None = None
    """Use at most so many problems, chosen by keyed hash."""
    grader: GraderName | None = Field(default=None, exclude_if=unset)
    """Another grader (docs/sft.md) than `problems` brings: `exact`, `words`, `shared_words`, `number` or `boxed` for `word_problems`,
    `mathematics` and `questions`; `all_constraints` for `constraints`, which otherwise gives the share that is met."""

    @property
    def builtin(self) -> bool:
        """Whether the problems are made and not read."""
        return self.problems == "arithmetic"

    @property
    def label(self) -> str:
        return self.name or self.problems if self.builtin else super().label

    @model_validator(mode="after")
    def _complete(self) -> ProblemSourceConfig:
        if not self.builtin:
            super()._complete()  # pyright: ignore[reportCallIssue]
        refuse_idle(self, self.problems, self.builtin)
        fitting = _GRADERS.get(self.problems)
        if self.grader is not None and fitting is None:
            raise ValueError(f"{self.problems!r} takes no other `grader` than its own")
        if self.grader is not None and fitting is not None and self.grader not in fitting:
            raise ValueError(f"`grader` of {self.problems!r} must be one of {', '.join(fitting)}, got {self.grader!r}")
        return self


class RuleConfig(Section):
    """A rule that gives each answer a number from 0 to 1, and the weight of that in a reward."""

    rule: Literal["length", "ended", "distinct", "pattern", "constraint"]
    """`length`: 1 from `at_least` to `at_most` tokens, less the further away; `ended`: 1 where the answer ended by itself; `distinct`: the
    share of three-word phrases that were not there before; `pattern`: 1 where it is found; `constraint`: 1 where one of IFEval's is met."""
    weight: float = 1.0
    """Its weight; below 0 it is taken off."""
    at_least: Positive = 1
    """`length`: fewest tokens."""
    at_most: Positive | None = None
    """`length`: most tokens; default: no bound."""
    pattern: str | None = None
    """`pattern`: a regular expression."""
    constraint: ConstraintName | None = None
    """`constraint`: its name, such as `detectable_format:number_bullet_lists`."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """`constraint`: what it asks for, such as `{num_bullets = 3}`."""

    @model_validator(mode="after")
    def _what_it_needs(self) -> RuleConfig:
        for name in ("pattern", "constraint"):
            if (self.rule == name) != (getattr(self, name) is not None):
                raise ValueError(f"`{name}` belongs to the rule {name!r}, and that needs it; this rule is {self.rule!r}")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"`pattern` is no regular expression: {error}") from None
        if self.at_most is not None and self.at_most < self.at_least:
            raise ValueError(f"`at_most` must not be below `at_least`, got {self.at_most} and {self.at_least}")
        return self


class GrpoSection(PostTrainingSection):
    """Reinforcement learning on groups of a model's own answers, with rewards that can be checked: GRPO and its relatives."""

    kind: Literal["grpo"]
    """Which of `[[post]]`'s tables this is."""
    sources: tuple[ProblemSourceConfig, ...] = Field(min_length=1)
    """Tables of `ProblemSourceConfig`."""
    eval_sources: tuple[ProblemSourceConfig, ...] = Field(default=(), exclude_if=unset)
    """The same: problems to measure on, in place of a share of `sources`; no prompt of them is trained on, with whatever answer."""
    steps: Positive = 200
    """Updates."""
    prompts_per_step: Positive = 16
    """Problems in a rollout."""
    group_size: int = Field(default=8, ge=2)
    """Answers to each."""
    temperature: float = Field(default=1.0, gt=0, le=10, exclude_if=is_one)
    """Divides the logits, of what is sampled as of every log-probability in the loss."""
    top_p: float = Field(default=1.0, gt=0, le=1, exclude_if=is_one)
    """Sample from the smallest set of tokens with so much probability. Log-probabilities in the loss are of the whole distribution, and
    `importance_cap` corrects for what was cut off."""
    updates_per_rollout: Positive = 1
    """Updates on one rollout before the next is sampled."""
    max_new_tokens: Positive = 64
    """Longest answer, in tokens."""
    scale_by_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO) or do not (Dr. GRPO)."""
    normalise: Literal["token", "sequence", "constant"] = "token"
    """What weighs the same in a step's loss: each token (DAPO), each answer (GRPO), or each token, in an answer of `max_new_tokens`
    (Dr. GRPO)."""
    clip_eps: float = Field(default=0.2, gt=0, lt=1)
    """How far a token's ratio may move from 1 before its gradient ends."""
    clip_eps_high: float | None = Field(default=None, gt=0)
    """The same upwards; default: `clip_eps`. DAPO has 0.28."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the model before; 0 needs no reference."""
    importance_cap: float = Field(default=2.0, ge=0)
    """Largest factor by which tokens are corrected that the engine samples otherwise than the trainer computes; 0: no correction."""
    grader_weight: float = Field(default=1.0, ge=0)
    """Weight of the grader's reward, which is from 0 to 1."""
    length_weight: float = Field(default=0.0, ge=0)
    """Taken off an answer of `max_new_tokens`, and a share of it where an answer is less than `length_margin` below."""
    length_margin: int = Field(default=16, ge=0)
    """Tokens over which the reward for length falls."""
    repetition_weight: float = Field(default=0.0, ge=0)
    """Taken off an answer all of whose three-word phrases were there before, and a share of it for some."""
    rules: tuple[RuleConfig, ...] = Field(default=(), exclude_if=unset)
    """Tables of `RuleConfig`: further parts of the reward."""
    reward_model: str | None = Field(default=None, exclude_if=unset)
    """A stage of kind `reward` that stands before this one, or the path of such a stage's output: its number for an answer is a part of
    the reward."""
    reward_weight: float = Field(default=1.0, gt=0, exclude_if=is_one)
    """Weight of that part."""
    judge_seconds: float = Field(default=10.0, gt=0)
    """Longest time for one grading; one that hangs counts as 0."""
    allow_code: bool = Field(default=False, exclude_if=unset)
    """Let the grader of `programs` run what the model wrote, with limits (`tasks.grading.confine`)."""
    eval_problems: Positive = 200
    """Unseen problems that are answered, greedily, at each measurement; `val/loss` is 1 less their mean reward."""
    validation_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.2
    """Share of problems that are never trained on, chosen by keyed hash, where there are no `eval_sources`. Of `arithmetic` it is always a
    fifth, the one that `[sft]` leaves out, too."""
    keep_answers: Positive = 3
    """Answers with the highest reward that go into `samples.jsonl` and the report."""
    system_prompt: str | None = None
    """Put in front of every problem; default: that of `sft`."""

    @model_validator(mode="after")
    def _cap_is_a_cap(self) -> GrpoSection:
        if 0 < self.importance_cap < 1:
            raise ValueError(f"`importance_cap` must be 0 or at least 1, got {self.importance_cap}")
        return self

    @model_validator(mode="after")
    def _code_is_allowed(self) -> GrpoSection:
        if not self.allow_code and any(source.problems == "programs" for source in (*self.sources, *self.eval_sources)):
            raise ValueError("problems of kind 'programs' are graded by running what the model wrote: set `allow_code` to allow that")
        return self

    @model_validator(mode="after")
    def _something_is_rewarded(self) -> GrpoSection:
        others = self.rules or self.reward_model or self.length_weight or self.repetition_weight
        bank = any(source.problems == "prompts" for source in (*self.sources, *self.eval_sources))
        if not others and (bank or not self.grader_weight):
            of = "problems of kind 'prompts' have no answer, so their" if bank else "with a `grader_weight` of 0 the"
            raise ValueError(f"{of} reward would always be 0: give `rules` or a `reward_model`")
        return self

    @property
    def reward_stage(self) -> str | None:
        """The stage of this recipe that `reward_model` names, if it is none of elsewhere."""
        return self.reward_model if self.reward_model and re.fullmatch(_STAGE_NAME, self.reward_model) else None


POST_SECTIONS = (PostSftSection, DpoSection, DistillSection, GrpoSection, RewardSection)
"""Each kind of `[[post]]`, and a file of `luthier/stages` for each."""
PostSection = Annotated[PostSftSection | DpoSection | DistillSection | GrpoSection | RewardSection, Field(discriminator="kind")]
"""A table of `[[post]]`. `speaks` tells whether what it trains is a language model, with which the next stage begins."""
