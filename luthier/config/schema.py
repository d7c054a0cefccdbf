"""Every setting of a recipe, as frozen models without torch. In: plain dicts. Out: `Recipe`. Next room: runs.

`None` means "derive it"; `config.load.derived` says what a value was derived to and by which rule.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from luthier.config.data import DataSection
from luthier.config.model import ModelSection
from luthier.config.post import RESERVED, DistillSection, GrpoSection, PostSection
from luthier.config.sampling import SamplingSection
from luthier.config.section import Positive, Section
from luthier.config.sft import SftSection
from luthier.config.tokenization import TokenizerSection
from luthier.config.training import OptimSection, PretrainSection


class RunSection(Section):
    """What the run is called and the seed everything random in it derives from."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the run; its directory is `runs.root/NAME-HASH`. A recipe's file name is the default."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed of the split, the initial weights, the order of training rows and the samples."""
    continues: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}@[0-9]+$")
    """The pretraining, as KEY@STEP, from whose checkpoint this one goes on under changed settings; set by `--resume`."""


class RunsSection(Section):
    """Where runs are kept. Not part of any hash."""

    root: str = "runs"
    """Directory of all runs and of the stage store; `$LUTHIER_RUNS` when the recipe does not say."""
    workers: Positive | None = None
    """Processes that read and filter documents; default: one for each processor, when there is enough to do."""


class PackSection(Section):
    """Token shards and training rows."""

    seq_len: int = Field(default=256, ge=8)
    """Tokens in a training row."""
    rows: Literal["stream", "best_fit", "chunks"] = "stream"
    """`stream` cuts documents wherever a row ends, `best_fit` lets whole ones share rows, `chunks` keeps what fills a row and no more."""
    shard_tokens: Positive = 2**24
    """A token shard is closed once it holds so many tokens."""


class EvalSection(Section):
    """The final evaluation: bits per byte on all validation text, base against tuned answers."""

    questions: tuple[str, ...] = ("What is music?",)
    """Asked of the base model and of the tuned model, side by side."""
    max_tokens: Positive | None = None
    """Validation tokens used; default: all."""


class ExportSection(Section):
    """The Hugging Face folder."""

    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the exported weights."""
    parity_prompts: int = Field(default=3, ge=0)
    """Prompts on which `transformers` must give our greedy tokens, where it is installed."""
    parity_tokens: Positive = 64
    """Greedy tokens compared for each prompt."""


class Recipe(Section):
    """One model's whole life."""

    description: str = ""
    """One line: what this recipe makes."""
    expected_params: Positive | None = None
    """Number of parameters that the dimensions must give; the run stops before it starts when they do not."""
    run: RunSection = RunSection()
    runs: RunsSection = RunsSection()
    data: DataSection = DataSection()
    tokenizer: TokenizerSection = TokenizerSection()
    pack: PackSection = PackSection()
    model: ModelSection = ModelSection()
    optim: OptimSection = OptimSection()
    pretrain: PretrainSection = PretrainSection(tokens_per_param=20)
    sft: SftSection = SftSection()
    post: tuple[PostSection, ...] = ()
    """Tables of further training, each with `kind` and `name`, in their order; the last one's model is the recipe's."""
    sampling: SamplingSection = SamplingSection()
    eval: EvalSection = EvalSection()
    export: ExportSection = ExportSection()

    @model_validator(mode="after")
    def _each_post_stage_has_its_name(self) -> Recipe:
        names = [section.name for section in self.post]
        wrong = sorted({name for name in names if names.count(name) > 1 or name in RESERVED})
        if wrong:
            raise ValueError(f"post: each stage needs a name of its own, none of {', '.join(RESERVED)}; not {', '.join(wrong)}")
        return self

    @model_validator(mode="after")
    def _rewards_come_from_before(self) -> Recipe:
        for position, section in enumerate(self.post):
            named = section.reward_stage if isinstance(section, GrpoSection) else None
            if named is not None and named not in (one.name for one in self.post[:position] if one.kind == "reward"):
                raise ValueError(f"post.{section.name}: `reward_model` names no stage of kind 'reward' before it, got {named!r}")
        return self

    @model_validator(mode="after")
    def _conversations_fit_into_the_context(self) -> Recipe:
        context = self.model.max_seq_len or self.pack.seq_len
        for name, section in (("sft", self.sft), *((f"post.{one.name}", one) for one in self.post)):
            if isinstance(section, DistillSection) and section.student is not None:
                context = section.student.max_seq_len or self.pack.seq_len
            if isinstance(section, SftSection) and section.seq_len is not None and section.seq_len > context:
                raise ValueError(
                    f"{name}.seq_len: rows of {section.seq_len} tokens are longer than the model's context of {context}; "
                    "set model.max_seq_len, or shorten the rows"
                )
        return self

    def decides(self) -> dict[str, Any]:
        """All that a run's name is the hash of, as plain values: not where it is kept, nor a part that is empty."""
        return self.model_dump(mode="json", exclude={"runs"} if self.post else {"runs", "post"})
