"""Fine-tuning on conversations. In: `[sft]`. Out: frozen values. Next: post."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.config.data import SourceConfig
from luthier.config.section import Positive, Section, Share, unset
from luthier.config.training import CourseSection, OptimizerName, OptimSection, ScheduleName, TrainingSection

TaskName = Literal[
    "auto",
    "messages",
    "sharegpt",
    "turns",
    "instructions",
    "dolly",
    "completions",
    "questions",
    "passages",
    "fairytales",
    "choices",
    "summaries",
    "cookbook",
    "encyclopedia",
    "spans",
    "who",
    "personality",
    "arithmetic",
]


class SftSourceConfig(SourceConfig):
    """A source of conversations: raw records and the task that makes conversations of them."""

    task: TaskName = "auto"
    """Which file of `luthier/tasks` reads the records; `auto`: the one whose fields a record has. Two have records of their own and need no
    path: `personality` is about who the model is, `arithmetic` are sums, without the fifth that GRPO's keeps unseen."""
    digits: Positive = 2
    """`arithmetic`: digits of each number."""
    operations: str = Field(default="+", pattern=r"^[-+*]+$")
    """`arithmetic`: some of `+`, `-`, `*`."""
    limit: Positive | None = None
    """Use at most so many conversations, chosen by keyed hash."""
    weight: Annotated[float, Field(gt=0.0)] | None = None
    """How often each conversation is trained on in one epoch: 2 is twice, 0.3 is three in ten of them, chosen by keyed hash; default: once.
    What is held out is not weighted."""

    @property
    def builtin(self) -> bool:
        """Whether the records come with luthier."""
        return self.task in ("personality", "arithmetic")

    @property
    def label(self) -> str:
        return self.name or self.task if self.builtin else super().label

    @model_validator(mode="after")
    def _complete(self) -> SftSourceConfig:
        if not self.builtin:
            super()._complete()  # pyright: ignore[reportCallIssue]
        refuse_idle(self, self.task, self.builtin)
        return self


def refuse_idle(source: SourceConfig, kind: str, builtin: bool) -> None:
    """Refuse what a source would ignore: a path where it makes its own records, settings of sums where it has none.

    Raises: ValueError
    """
    if builtin and (source.path or source.package or source.dataset or source.urls):
        raise ValueError(f"{kind!r} has records of its own and takes no path, package, dataset or urls")
    fields = type(source).model_fields
    idle = [name for name in ("digits", "operations") if kind != "arithmetic" and getattr(source, name) != fields[name].default]
    if idle:
        raise ValueError(f"`{'`, `'.join(idle)}`: only 'arithmetic' has that, not {kind!r}")


class LoraSection(Section):
    """Low-rank adapters: chosen matrices move by products of two thin ones, all else stays. Merged at all times."""

    lora_rank: int = Field(default=0, ge=0, le=4096)
    """Rank of the products; 0 trains all weights. Adapters want a learning rate about ten times as high."""
    lora_alpha: float = Field(default=16.0, gt=0)
    """The products are multiplied by `lora_alpha / lora_rank`."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear maps that are adapted."""


class TuningSection(CourseSection, LoraSection, TrainingSection):
    """What all trainings behind pretraining have in common."""

    optimizer: OptimizerName | None = Field(default=None, exclude_if=unset)
    """`adamw`, or `muon` for the blocks' matrices; default: that of `optim`."""
    muon_lr: float | None = Field(default=None, gt=0, le=1.0, exclude_if=unset)
    """Peak learning rate of Muon's matrices; default: in proportion to `lr` as in `optim`."""
    lr: float = Field(default=5e-5, gt=0, le=1.0)
    """Peak learning rate; betas, decay and clipping are those of `optim`."""
    schedule: ScheduleName = "linear"
    """Course of the learning rate after warm-up."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up; never more than a tenth of the run."""
    min_lr_ratio: Share = 0.0
    """Final learning rate as a share of the peak."""
    sample_prompts: tuple[str, ...] = ("What is music?",)
    """Questions that live samples answer."""

    def settle_optim(self, optim: OptimSection) -> OptimSection:
        """The recipe's optimizer, or the other one, with other peak learning rates."""
        rates = {"lr": self.lr, "muon_lr": self.muon_lr or optim.muon_lr * self.lr / optim.lr}
        return optim.model_copy(update={"name": self.optimizer or optim.name, **rates})


class SftSection(TuningSection):
    """Supervised fine-tuning on conversations; the loss counts assistant tokens only, unless `supervise` says otherwise."""

    sources: tuple[SftSourceConfig, ...] = ()
    """Tables of `SftSourceConfig`; no sources, no SFT."""
    supervise: Literal["assistant", "last", "end", "all"] = "assistant"
    """What the loss counts: all that the assistant says, its last answer only, only what ends each answer, or the whole conversation."""
    neftune_alpha: float = Field(default=0.0, ge=0, le=1000)
    """Uniform noise on the embeddings while training, of size alpha / sqrt(tokens in the conversation x d_model); 5 is usual, 0 is none.
    Source: Jain et al. 2023, arXiv:2310.05914."""
    take: Literal["last", "best"] = "last"
    """Which checkpoint is the stage's: the last one, or the one with the lowest loss on held-out answers."""
    assistant_name: str | None = Field(default=None, min_length=1, max_length=80)
    """What the model calls itself in the task `personality`; default: `run.name`."""
    epochs: float = Field(default=2.0, gt=0)
    """Passes over the conversations."""
    lr: float = Field(default=5e-4, gt=0, le=1.0)
    """Peak learning rate; betas, decay and clipping are those of `optim`."""
    seq_len: Positive | None = Field(default=None, exclude_if=unset)
    """Tokens in a row, and in the longest conversation, at most the model's context; default: `pack.seq_len`."""
    validation_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    """Share of conversations held out, chosen by keyed hash of the content."""
    system_prompt: str | None = None
    """Put in front of every conversation that has no system message of its own."""

    @model_validator(mode="after")
    def _noise_is_not_replayed(self) -> SftSection:
        if self.neftune_alpha and self.replay_every:
            raise ValueError("`replay_every` does not go with `neftune_alpha`: the noise would differ, and look like a fault")
        return self
