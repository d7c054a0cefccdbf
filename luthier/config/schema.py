"""Every setting of a recipe, as frozen models without torch. In: plain dicts. Out: `Recipe`. Next room: runs.

`None` means "derive it"; `config.load.derived` says what a value was derived to and by which rule.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.config.data import DataSection, SourceConfig
from luthier.config.section import Positive, Section, Share
from luthier.config.tokenization import TokenizerSection

Precision = Literal["auto", "fp32", "bf16"]
ScheduleName = Literal["cosine", "linear", "wsd", "constant"]


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
    shard_tokens: Positive = 2**24
    """A token shard is closed once it holds so many tokens."""


class ModelSection(Section):
    """The decoder's shape."""

    d_model: Positive = 256
    """Width of the residual stream."""
    n_layers: Positive = 6
    """Number of blocks."""
    n_heads: Positive = 4
    """Query heads."""
    n_kv_heads: Positive | None = None
    """Key and value heads; default: `n_heads`."""
    head_dim: Positive | None = None
    """Width of one head; default: `d_model / n_heads`."""
    d_ff: Positive | None = None
    """Hidden width of the SwiGLU MLP; default: 8/3 `d_model`, rounded up to a multiple of 64."""
    vocab_size: Positive | None = None
    """Rows of the embedding; default: the tokenizer's number of entries."""
    max_seq_len: Positive | None = None
    """Longest context the model claims; default: `pack.seq_len`."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    norm_eps: float = Field(default=1e-5, gt=0, lt=1e-1)
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = True
    """Use the embedding as the output projection."""
    init_std: float = Field(default=0.02, gt=0, lt=1)
    """Standard deviation of the initial weights; residual projections are divided by sqrt(2 n_layers)."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelSection:
        kv_heads = self.n_kv_heads or self.n_heads
        if self.n_heads % kv_heads:
            raise ValueError(f"`n_heads` must be a multiple of `n_kv_heads`, got {self.n_heads} and {kv_heads}")
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ValueError(f"`n_heads` must divide `d_model`, got {self.n_heads} and {self.d_model}")
        if (self.head_dim or self.d_model // self.n_heads) % 2:
            raise ValueError("`head_dim` must be even: RoPE turns pairs")
        return self


class ModelConfig(Section):
    """A model's shape with nothing left to derive; what checkpoints record."""

    d_model: Positive
    n_layers: Positive
    n_heads: Positive
    n_kv_heads: Positive
    head_dim: Positive
    d_ff: Positive
    vocab_size: Positive
    max_seq_len: Positive
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    init_std: float


class OptimSection(Section):
    """The optimizer and the learning rate's course, for pretraining."""

    name: Literal["adamw", "muon"] = "adamw"
    """`adamw`, or `muon` for the blocks' matrices with AdamW for the rest."""
    lr: float = Field(default=1e-3, gt=0, le=1.0)
    """Peak learning rate of AdamW."""
    muon_lr: float = Field(default=0.02, gt=0, le=1.0)
    """Peak learning rate of Muon's matrices."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    """Decoupled decay of matrices; norms and biases have none."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""
    schedule: ScheduleName = "cosine"
    """Course of the learning rate after warm-up."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps of linear warm-up; never more than a tenth of the run."""
    decay_ratio: Share = 0.2
    """`wsd`: share of the run that decays."""
    min_lr_ratio: Share = 0.1
    """Final learning rate as a share of the peak."""


class TrainingSection(Section):
    """What pretraining and SFT have in common."""

    global_batch_tokens: Positive = 16_384
    """Tokens in one optimizer step, rounded to whole rows."""
    micro_batch_size: Positive | None = None
    """Rows in one forward pass; default: as many as the memory plan allows, at most 8,192 tokens on a CPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Precision = "auto"
    """Type of matrix products; weights stay fp32. `auto`: bf16 where the processor has units for it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the model with TorchInductor; `auto`: where a C++ compiler or a GPU is there and the run is long enough."""
    attention: Literal["auto", "naive", "blocked", "sdpa", "flex", "triton"] = "auto"
    """How attention is computed; `auto`: the fastest on a GPU of those that give the right numbers there; in blocks on a CPU."""
    log_every: Positive = 1
    """Steps between lines of `metrics.jsonl`."""
    eval_every: Positive = 100
    """Steps between validation losses."""
    eval_tokens: Positive = 65_536
    """Validation tokens used while training; the final evaluation uses all."""
    sample_every: Positive = 100
    """Steps between live samples."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints; default: by time alone."""
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    """Longest time between checkpoints, in minutes; one is also saved at every stop and at the end."""
    keep_checkpoints: Positive = 2
    """Verified checkpoints kept, the newest ones."""
    keep_best: bool = False
    """Also save a checkpoint whenever the validation loss improves, and keep the best."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "skip"
    """When a loss or gradient is not finite: end, skip the batch, or go back to the last `checkpoint_every` and skip all since."""
    on_spike: Literal["log", "stop", "skip", "rollback"] = "log"
    """The same when a loss is far above the last ones; `log` only counts it."""
    spike_deviations: float = Field(default=8.0, ge=3)
    """A spike is so many robust standard deviations above the median of the last 64 losses, and a tenth of it."""
    max_bad_steps: Positive = 5
    """End after so many bad steps in a row."""
    replay_every: Positive | None = None
    """Compute every n-th step's gradients twice and end when they differ in one bit (a faulty chip); default: never."""

    @model_validator(mode="after")
    def _rollback_needs_fixed_checkpoints(self) -> TrainingSection:
        if "rollback" in (self.on_nonfinite, self.on_spike) and self.checkpoint_every is None:
            raise ValueError("`rollback` needs `checkpoint_every`: where it goes back to must not depend on the clock")
        return self


class PretrainSection(TrainingSection):
    """Pretraining. The horizon is exactly one of `steps`, `tokens`, `epochs`, `tokens_per_param`."""

    steps: Positive | None = None
    """Horizon in optimizer steps."""
    tokens: Positive | None = None
    """Horizon in tokens."""
    epochs: float | None = Field(default=None, gt=0)
    """Horizon in passes over the training tokens."""
    tokens_per_param: float | None = Field(default=None, gt=0)
    """Horizon in tokens per parameter."""
    document_mask: bool = False
    """Keep tokens from seeing the other documents of their row."""
    sample_prompts: tuple[str, ...] = ("The ", "In the ")
    """Beginnings that live samples continue."""

    @model_validator(mode="after")
    def _one_horizon(self) -> PretrainSection:
        given = [key for key in ("steps", "tokens", "epochs", "tokens_per_param") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of `steps`, `tokens`, `epochs`, `tokens_per_param` must be set, got {', '.join(given) or 'none'}"
            )
        return self


class SftSourceConfig(SourceConfig):
    """A source of conversations: raw records and the task that makes conversations of them."""

    task: Literal["encyclopedia", "cookbook", "instructions", "messages"]
    """Which file of `luthier/tasks` reads the records."""
    limit: Positive | None = None
    """Use at most so many conversations, chosen by keyed hash."""


class SftSection(TrainingSection):
    """Supervised fine-tuning on conversations; the loss counts assistant tokens only."""

    sources: tuple[SftSourceConfig, ...] = ()
    """Tables of `SftSourceConfig`; no sources, no SFT."""
    epochs: float = Field(default=2.0, gt=0)
    """Passes over the conversations."""
    lr: float = Field(default=5e-4, gt=0, le=1.0)
    """Peak learning rate; betas, decay and clipping are those of `optim`."""
    schedule: ScheduleName = "linear"
    """Course of the learning rate after warm-up."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up; never more than a tenth of the run."""
    min_lr_ratio: Share = 0.0
    """Final learning rate as a share of the peak."""
    validation_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    """Share of conversations held out, chosen by keyed hash of the content."""
    system_prompt: str | None = None
    """Put in front of every conversation that has no system message of its own."""
    sample_prompts: tuple[str, ...] = ("What is music?",)
    """Questions that live samples answer."""


class SamplingSection(Section):
    """How tokens are drawn in evaluation, chat and serving."""

    temperature: float = Field(default=0.7, ge=0, le=10)
    """0 is greedy."""
    top_k: int = Field(default=40, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Keep the smallest set of tokens with so much probability."""
    repetition_penalty: float = Field(default=1.1, ge=1, le=10)
    """Divides (or multiplies, where negative) the logits of tokens already there; 1 is off."""
    max_new_tokens: Positive = 128
    """Longest answer, in tokens."""


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
    sampling: SamplingSection = SamplingSection()
    eval: EvalSection = EvalSection()
    export: ExportSection = ExportSection()
