"""Adapters over the base's folder, by `peft` itself, are the tuned model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.config.sft import LoraSection
from luthier.config.training import OptimSection
from luthier.export.hf import FUSED
from luthier.export.peft import export_adapters, why_no_adapters
from luthier.model.weights import save_tensors
from luthier.post.adapters import LowRank, saved_factors
from luthier.tokenizer.tokenizer import Tokenizer
from tests.export.test_hf import KINDS, export
from tests.export.test_own_class import QT
from tests.small import SENTENCES, small_decoder, small_shape
from tests.switches import shake

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")

ALL = LoraSection.model_fields["lora_targets"].default
SINGLE = [(name, switches) for name, switches in KINDS if name not in FUSED]
OWN: dict[str, Any] = {"value_embeddings": True, "residual_scalars": True, "positions": ("rope_interleaved", "alibi")}


@pytest.mark.parametrize(
    ("switches", "targets"),
    [*((switches, ALL) for _, switches in SINGLE), (QT, ALL), (OWN, ALL), ({}, ("q_proj", "down_proj"))],
    ids=str,
)
def test_adapters_over_the_base_are_the_tuned_model(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switches: dict[str, Any], targets: tuple[str, ...]
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    shape = {"n_kv_heads": 4, "n_layers": 3, "rope_theta": 500.0, "norm_eps": 1e-4, **switches}
    model = shake(small_decoder(7, vocab_size=tokenizer.vocab_size, **shape))
    export(model, tokenizer, tmp_path / "base")
    optimizer = LowRank(model, LoraSection(lora_rank=3, lora_alpha=7.5, lora_targets=targets), OptimSection(lr=0.03), seed=1)
    ids = torch.tensor([tokenizer.encode(SENTENCES[1])[:30]])
    for _ in range(4):
        model.zero_grad()
        model.logits(model(ids)).square().mean().backward()
        optimizer.step(1.0)
    export(model, tokenizer, tmp_path / "tuned")
    save_tensors(optimizer.state(), tmp_path / "training.safetensors")
    factors = saved_factors(tmp_path / "training.safetensors")
    assert why_no_adapters(model.config, factors) is None
    export_adapters(model.config, factors, 7.5, tmp_path / "adapters")

    loaded = transformers.AutoModelForCausalLM.from_pretrained
    base, tuned = (loaded(tmp_path / name, dtype=torch.float32, trust_remote_code=True).eval() for name in ("base", "tuned"))
    with torch.no_grad():
        before, wanted = (one(input_ids=ids).logits for one in (base, tuned))
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapters")
        torch.testing.assert_close(adapted(input_ids=ids).logits, wanted, atol=2e-4, rtol=2e-4)
        merged = adapted.merge_and_unload()
    assert (before - wanted).abs().max() > 0.05, "adapters that do nothing prove nothing"
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, tuned.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_names_and_settings_are_those_that_peft_writes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = small_decoder(7, vocab_size=tokenizer.vocab_size)
    optimizer = LowRank(model, LoraSection(lora_rank=2), OptimSection(), seed=1)
    save_tensors(optimizer.state(), tmp_path / "training.safetensors")
    export_adapters(model.config, saved_factors(tmp_path / "training.safetensors"), 16.0, tmp_path / "ours")
    export(model, tokenizer, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    peft.PeftModel.from_pretrained(base, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ours, theirs = (peft.utils.load_peft_weights(str(tmp_path / name), device="cpu") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in ours
    ours, theirs = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs"))
    for settings in (ours, theirs):
        settings["target_modules"] = sorted(settings["target_modules"])
        settings["base_model_name_or_path"] = None
    assert theirs | ours == theirs, "nothing but what peft has, with its values"


def test_what_peft_cannot_adapt_is_said() -> None:
    gpt2 = small_shape(norm="layernorm", mlp="gelu", bias=True, positions="learned", n_kv_heads=4)
    assert why_no_adapters(gpt2, ["layers.0.mlp.up_proj.weight"]) == "GPT2LMHeadModel has queries, keys and values in one matrix"
    assert why_no_adapters(small_shape(), ["layers.0.mlp.up_proj.weight", "embed_tokens.weight"]) == (
        "embed_tokens is not a projection of a block"
    )
