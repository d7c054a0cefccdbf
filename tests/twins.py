"""A decoder's twin in transformers, made by our own export, and what it needs to stand in a trainer of TRL's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from luthier.config.sampling import SamplingSection
from luthier.export.hf import export_hugging_face
from luthier.model.decoder import Decoder
from luthier.tokenizer.chat import CHAT_TEMPLATE
from luthier.tokenizer.tokenizer import Tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

SHAPES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "Qwen3ForCausalLM": {"qk_norm": True, "tie_embeddings": False},
}
"""Two kinds of decoder, as changes of the small one, by what they are there."""


def twin(model: Decoder, tokenizer: Tokenizer, directory: Path, kind: str = "CausalLM", **changes: Any) -> tuple[Any, Any]:
    """Export a decoder; load the model, in fp32 and for training, and the tokenizer as transformers have them."""
    export_hugging_face(model, tokenizer, directory, "fp32", CHAT_TEMPLATE, SamplingSection())
    theirs = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(directory, dtype=torch.float32, **changes)
    return theirs.train(), transformers.AutoTokenizer.from_pretrained(directory)


def arguments(directory: Path, **changes: Any) -> dict[str, Any]:
    """What any trainer of theirs is to be told: on the CPU, in fp32, nothing computed twice, nothing reported."""
    plain = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none", "disable_tqdm": True}
    return {"output_dir": str(directory), **plain, **changes}


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """The gradient of each weight by our names."""
    return {name.removeprefix("model."): p.grad for name, p in model.named_parameters() if p.grad is not None}


def loss_of(trainer: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a trainer of theirs on its whole data set as one batch, and the gradients."""
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    loss.backward()
    return loss.detach(), gradients(trainer.model)


def assert_same_gradients(model: Decoder, expected: dict[str, torch.Tensor], share: float = 1e-5) -> None:
    """All weights have a gradient, and it differs by at most a share of the largest of all gradients."""
    found = gradients(model)
    assert set(found) == set(expected)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest > 1e-3, "gradients that vanish prove nothing"
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=share * largest, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
