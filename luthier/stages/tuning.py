"""What the stages behind pretraining have in common. In: a recipe, a stage's section. Out: parts of its key, messages.

Next: sft, dpo, grpo, reward, distill.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from luthier.config.data import SourceConfig
from luthier.config.schema import Recipe
from luthier.config.training import TrainingSection
from luthier.stages.pretrain import training_settings
from luthier.tasks.conversation import Message


def prompted_settings(kind: str, section: TrainingSection, recipe: Recipe) -> dict[str, Any]:
    """What decides the model of a stage whose rows may begin with the system prompt."""
    return {
        kind: training_settings(section),
        "optim": recipe.optim.model_dump(mode="json"),
        "seq_len": recipe.pack.seq_len,
        "seed": recipe.run.seed,
        "system_prompt": recipe.sft.system_prompt,
    }


def fingerprints(sources: Iterable[tuple[int, SourceConfig]], cache: Path) -> dict[str, str]:
    """What a stage's numbered sources are known by."""
    from luthier.data.reading.sources import source_fingerprint

    return {f"source.{i}": source_fingerprint(source, cache) for i, source in sources}


def system_messages(prompt: str | None) -> list[Message]:
    """The system prompt as messages; none where there is none."""
    return [Message("system", prompt)] if prompt else []
