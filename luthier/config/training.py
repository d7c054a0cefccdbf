"""Optimizer, schedule and what every training has in common. In: `[optim]`, `[pretrain]`. Out: frozen values. Next: schema."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from luthier.config.section import Positive, Section, Share

Precision = Literal["auto", "fp32", "bf16", "fp16"]
ScheduleName = Literal["cosine", "linear", "wsd", "constant"]


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
    superposition: int = Field(default=1, ge=1, le=64)
    """Tokens in each of the bags that the first steps see in place of tokens, at the same cost; 1: none. An experiment, see docs/LOG.md."""
    superposition_share: Share = 0.3
    """Share of the steps that see bags."""
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
