"""Adapters for `peft`. In: the factors of a low-rank training. Out: a folder for `PeftModel.from_pretrained`. Next: serve.

It goes over the Hugging Face folder of the model that the training began with. Source: peft's `LoraConfig` and `save_pretrained`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from luthier.config.model import ModelConfig
from luthier.export.hf import FUSED, named_as
from luthier.model.weights import save_tensors
from luthier.plan.architectures import OWN, architecture
from luthier.runs.files import make_directory, write_json


def why_no_adapters(config: ModelConfig, names: Iterable[str]) -> str | None:
    """What keeps `peft` from adapting these weights; `None` where each is one matrix of one projection in the Hugging Face folder."""
    family = architecture(config)
    if family in FUSED:
        return f"{family} has queries, keys and values in one matrix"
    others = [name.removesuffix(".weight") for name in names if not name.endswith("_proj.weight")]
    return f"{others[0]} is not a projection of a block" if others else None


def export_adapters(config: ModelConfig, factors: Mapping[str, tuple[Tensor, Tensor]], alpha: float, directory: Path) -> None:
    """Write the factors A and B of each weight, by the weight's name, where `why_no_adapters` has nothing against it.

    Where the folder has a matrix's rows in another order, B's are in that order too.
    Shapes: A (rank, in), B (out, rank); the weight is larger by alpha / rank * B A
    Raises: StorageError
    """
    family, tensors = architecture(config) or OWN, dict[str, Tensor]()
    for name, (a, b) in factors.items():
        ((theirs, turned),) = named_as(config, family, {name: b}).items()
        module = theirs.removesuffix(".weight")
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = turned
    make_directory(directory)
    save_tensors(tensors, directory / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": len(next(iter(factors.values()))[0]),
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(directory / "adapter_config.json", settings)
