"""What is done with a base model. In: `[sft]`. Out: frozen values. Next: schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.config.data import SourceConfig
from luthier.config.section import Positive, Share
from luthier.config.training import ScheduleName, TrainingSection


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
