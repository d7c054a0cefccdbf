"""Optimizer, schedule and what every training has in common. In: `[optim]`, `[pretrain]`. Out: frozen values. Next: schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.config.section import Positive, Section, Share, unset

Precision = Literal["auto", "fp32", "bf16", "fp16"]
ScheduleName = Literal["cosine", "linear", "wsd", "constant"]
DecayForm = Literal["linear", "1-sqrt"]
OptimizerName = Literal["adamw", "muon"]
MuonPolynomial = Literal["newton_schulz", "polar_express"]


class CourseSection(Section):
    """The learning rate's course over a training, as a share of its peak; `luthier.optim.schedule` has the formulas."""

    schedule: ScheduleName = "cosine"
    """Course of the learning rate after warm-up; `wsd` stays at the peak until it decays."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps of linear warm-up, before the first at the peak; never more than a tenth of the course."""
    warmup_start: float | None = Field(default=None, gt=0, le=1)
    """Share of the peak in the first step; default: 1 / (warmup_steps + 1), so that all of its steps are equal."""
    decay_ratio: Share = 0.2
    """`wsd`: share of the course that decays."""
    decay_steps: Positive | None = None
    """`wsd`: steps that decay, in place of `decay_ratio`."""
    decay_form: DecayForm = "linear"
    """`wsd`: how it decays; `1-sqrt` falls fast at first."""
    min_lr_ratio: Share = 0.1
    """Final learning rate as a share of the peak; 0 goes to zero."""
    restarts: Annotated[int, Field(ge=0)] | tuple[Annotated[float, Field(gt=0, lt=1)], ...] = 0
    """How often the course begins anew, warm-up included, after equal parts; or where, as shares of the run: `[0.4553]`."""
    restart_peak: float = Field(default=1.0, gt=0, le=1)
    """Peak after a restart as a share of the last one."""
    restart_warmup_steps: int | None = Field(default=None, ge=0, exclude_if=unset)
    """Steps of linear warm-up after a restart; default: `warmup_steps`."""

    @model_validator(mode="after")
    def _restarts_in_order(self) -> CourseSection:
        if isinstance(self.restarts, tuple) and list(self.restarts) != sorted(set(self.restarts)):
            raise ValueError(f"`restarts` must ascend, got {list(self.restarts)}")
        return self


class OptimSection(CourseSection):
    """The optimizer and the learning rate's course, for pretraining."""

    name: OptimizerName = "adamw"
    """`adamw`, or `muon` for the blocks' matrices with AdamW for the rest."""
    lr: float = Field(default=1e-3, gt=0, le=1.0)
    """Peak learning rate of AdamW."""
    muon_lr: float = Field(default=0.02, gt=0, le=1.0)
    """Peak learning rate of Muon's matrices."""
    muon_polynomial: MuonPolynomial = "newton_schulz"
    """What makes Muon's updates orthogonal: one polynomial five times, or five that come closer for the same work."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    """Decoupled decay of matrices; norms and biases have none."""
    decay_embeddings: bool = True
    """Whether the embedding (and a head that is tied to it) decays too."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""


class TrainingSection(Section):
    """What pretraining and SFT have in common."""

    global_batch_tokens: Positive = 16_384
    """Tokens in one optimizer step, rounded to whole rows."""
    micro_batch_size: Positive | None = None
    """Rows in one forward pass; default: the most that fit, tried before the first step, on a GPU; 4,096 tokens on a CPU, or what fits."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Precision = "auto"
    """Type of matrix products; weights stay fp32. `auto`: bf16 where the processor has units for it. `fp16` scales its loss."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the model with TorchInductor; `auto`: where a C++ compiler or a GPU is there and the run is long enough."""
    attention: Literal["auto", "naive", "blocked", "sdpa", "flex", "triton"] = "auto"
    """How attention is computed; `auto`: the fastest on a GPU of those that give the right numbers there; in blocks on a CPU."""
    activation_checkpointing: Literal["off", "blocks", "selective"] = "off"
    """Keep less for the backward pass and compute it again: all inside a block, or all but matrix products and attention."""
    label_smoothing: Share = 0.0
    """Share of every target that is spread over the whole vocabulary; part of `train/loss`, never of a validation loss."""
    z_loss: float = Field(default=0.0, ge=0, le=1)
    """Times the square of the log-normaliser, added to `train/loss`, so that logits do not drift; PaLM's is 1e-4."""
    log_every: Positive = 1
    """Steps between lines of `metrics.jsonl`."""
    eval_every: Positive = 100
    """Steps between validation losses."""
    eval_tokens: Positive = 65_536
    """Validation tokens used while training, of packed rows from all over; the final evaluation of pretraining's text uses all."""
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
    batch_warmup_start: Positive | None = None
    """Tokens in the first steps, which then double until they are `global_batch_tokens`; default: no growth."""
    batch_warmup_tokens: Positive | None = None
    """Training tokens over which the batch grows; each size gets the same share of them."""
    superposition: int = Field(default=1, ge=1, le=64)
    """Tokens in each of the bags that the first steps see in place of tokens, at the same cost; 1: none. An experiment, see docs/LOG.md."""
    superposition_share: Share = 0.3
    """Share of the steps that see bags."""
    document_mask: bool = False
    """Keep tokens from seeing the other documents of their row."""
    replacement: bool = Field(default=False, exclude_if=unset)
    """Draw each row anew from all rows of its phase, so that some come twice and some never, in place of each once in an epoch."""
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

    @model_validator(mode="after")
    def _growth_is_whole(self) -> PretrainSection:
        start, tokens = self.batch_warmup_start, self.batch_warmup_tokens
        if (start is None) != (tokens is None):
            raise ValueError("`batch_warmup_start` and `batch_warmup_tokens` must be set together")
        if start is not None and start >= self.global_batch_tokens:
            raise ValueError(f"`batch_warmup_start` must be below `global_batch_tokens` ({self.global_batch_tokens:,}), got {start:,}")
        return self
