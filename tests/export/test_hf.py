"""The exported folder against transformers: weights, logits, greedy tokens, tokenizer, chat template."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luthier.config.sampling import SamplingSection
from luthier.errors import LuthierError, StorageError
from luthier.export.hf import export_hugging_face
from luthier.export.parity import check_parity
from luthier.generate.engine import Engine
from luthier.model.decoder import Decoder
from luthier.tasks.conversation import Message
from luthier.tokenizer.chat import CHAT_TEMPLATE, render_prompt
from luthier.tokenizer.tokenizer import Tokenizer
from tests.export.conftest import SENTENCES, decoder
from tests.small import small_decoder
from tests.switches import shake

transformers = pytest.importorskip("transformers")

SHAPES: list[dict[str, Any]] = [
    {"tied": True, "kv_heads": 2},
    {"tied": False, "kv_heads": 4},
    {"tied": True, "kv_heads": 1, "head_dim": 12, "extra_rows": 9},
]
TEXTS = (*SENTENCES, "", " two  spaces\n\n\ttab", "<|user|> stays? né 中文 🎻", "it's 12345")


def export(model: Decoder, tokenizer: Tokenizer, directory: Path, dtype: str = "fp32", **sampling: Any) -> dict[str, Any]:
    return export_hugging_face(model, tokenizer, directory, dtype, CHAT_TEMPLATE, SamplingSection(**sampling))


def load(directory: Path) -> tuple[Any, dict[str, Any]]:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    return model.eval(), info


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {"bias": True, "positions": "rope_interleaved", "n_kv_heads": 2}),
    ("LlamaForCausalLM", {"positions": ("rope", "rope_interleaved"), "dropout": 0.1}),
    ("Qwen3ForCausalLM", {"qk_norm": True, "n_kv_heads": 2}),
    ("Qwen3ForCausalLM", {"qk_norm": True, "positions": "rope_interleaved", "windows": (7, 0), "tie_embeddings": False}),
    ("SmolLM3ForCausalLM", {"positions": ("rope", "none"), "windows": 5, "bias": True}),
    ("SmolLM3ForCausalLM", {"windows": (0, 9, 9), "n_kv_heads": 1}),
    ("ArceeForCausalLM", {"mlp": "relu2", "n_kv_heads": 2}),
    ("ArceeForCausalLM", {"mlp": "gelu", "bias": True}),
    ("GPT2LMHeadModel", {"norm": "layernorm", "mlp": "gelu", "bias": True, "positions": "learned"}),
    ("GPT2LMHeadModel", {"norm": "layernorm", "mlp": "relu2", "bias": True, "positions": "learned", "tie_embeddings": False}),
    ("MptForCausalLM", {"norm": "layernorm", "mlp": "gelu", "positions": "alibi", "d_ff": 128}),
    ("VaultGemmaForCausalLM", {"logit_softcap": 5.0, "windows": (0, 7), "n_kv_heads": 2, "head_dim": 12}),
    ("VaultGemmaForCausalLM", {"logit_softcap": 9.0, "positions": "rope_interleaved", "tie_embeddings": False}),
    ("Starcoder2ForCausalLM", {"norm": "layernorm", "mlp": "gelu", "bias": True, "windows": 6, "head_dim": 12}),
    ("Starcoder2ForCausalLM", {"norm": "layernorm", "mlp": "relu2", "positions": "rope_interleaved", "n_kv_heads": 1}),
    ("StableLmForCausalLM", {"norm": "layernorm", "n_kv_heads": 2, "tie_embeddings": False}),
    (
        "MptForCausalLM",
        {"norm": "layernorm", "mlp": "gelu", "positions": "alibi", "d_ff": 96, "d_model": 24, "n_heads": 3, "n_kv_heads": 3},
    ),
]


@pytest.mark.parametrize(("name", "switches"), KINDS, ids=str)
def test_every_kind_has_transformers_logits(tokenizer: Tokenizer, tmp_path: Path, name: str, switches: dict[str, Any]) -> None:
    shape = {"vocab_size": tokenizer.vocab_size, "n_kv_heads": 4, "n_layers": 3, "rope_theta": 500.0, "norm_eps": 1e-4, **switches}
    model = shake(small_decoder(7, **shape))
    assert export(model, tokenizer, tmp_path / "hf")["format"] == name
    theirs, info = load(tmp_path / "hf")
    assert type(theirs).__name__ == name and not any(info.values()), info
    ids = torch.tensor([tokenizer.encode(SENTENCES[1])[:30], tokenizer.encode(SENTENCES[2])[:30]])
    with torch.no_grad():
        ours = model.logits(model(ids))
        torch.testing.assert_close(ours, theirs(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    assert ours.std() > 0.3, "logits that hardly differ prove nothing"
    assert check_parity(tmp_path / "hf", model, tokenizer, ["Music is", "A violin"], 24)["tokens"] == 48


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_and_greedy_tokens_are_ours(tokenizer: Tokenizer, tmp_path: Path, shape: dict[str, Any]) -> None:
    model = decoder(tokenizer, **shape)
    export(model, tokenizer, tmp_path / "hf")
    theirs, info = load(tmp_path / "hf")
    assert not any(info.values()), info
    ids = torch.tensor([tokenizer.encode(SENTENCES[1])[:30], tokenizer.encode(SENTENCES[2])[:30]])
    with torch.no_grad():
        ours = model.logits(model(ids))
        other = theirs(input_ids=ids).logits
    assert ours.std() > 0.5, "logits that hardly differ prove nothing"
    torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)
    report = check_parity(tmp_path / "hf", model, tokenizer, ["Music is", "The river", "A violin"], 64)
    assert report == {"checked": True, "prompts": 3, "tokens": 192}


def test_the_exported_weights_are_the_trained_ones(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(tokenizer, tied=True, kv_heads=2)
    export(model, tokenizer, tmp_path / "fp32")
    export(model, tokenizer, tmp_path / "bf16", "bf16")
    exact, rounded = load_file(tmp_path / "fp32" / "model.safetensors"), load_file(tmp_path / "bf16" / "model.safetensors")
    state = model.state_dict()
    assert set(exact) == set(rounded) == {f"model.{name}" for name in state}
    for name, weight in state.items():
        assert torch.equal(exact[f"model.{name}"], weight)
        assert torch.equal(rounded[f"model.{name}"], weight.bfloat16())
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"


def test_their_tokenizer_is_ours(tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = decoder(tokenizer, tied=True, kv_heads=2)
    export(model, tokenizer, tmp_path / "hf")
    with caplog.at_level(logging.WARNING):
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
        for text in TEXTS:
            if "<|" in text:
                continue  # transformers parses special tokens in text; luthier never does
            assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
            assert theirs.encode(text) == tokenizer.encode(text), "nothing is added to text unasked"
            assert theirs.decode(tokenizer.encode(text)) == text
    assert caplog.records == []
    special = tokenizer.special
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (special.begin_of_text, special.end_of_text, special.pad)
    assert len(theirs) == tokenizer.vocab_size


@pytest.mark.parametrize(
    "messages",
    [
        [("user", "What is music?")],
        [("system", "Be brief."), ("user", " It's  1,234\n"), ("assistant", "Yes."), ("user", "né 中文 🎻")],
    ],
)
def test_their_chat_template_renders_as_ours(tokenizer: Tokenizer, tmp_path: Path, messages: list[tuple[Any, str]]) -> None:
    export(decoder(tokenizer, tied=True, kv_heads=2), tokenizer, tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    given = [{"role": role, "content": content} for role, content in messages]
    rendered = theirs.apply_chat_template(given, add_generation_prompt=True, return_dict=True)
    assert rendered["input_ids"] == render_prompt([Message(role, content) for role, content in messages], tokenizer)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_generation_config_is_consistent(tokenizer: Tokenizer, tmp_path: Path, temperature: float) -> None:
    model = decoder(tokenizer, tied=True, kv_heads=2)
    export(model, tokenizer, tmp_path / "hf", temperature=temperature, max_new_tokens=5, repetition_penalty=1.3)
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
    config.validate(strict=True)
    assert config.do_sample == (temperature > 0)
    assert set(config.eos_token_id) == {tokenizer.special.end_of_turn, tokenizer.special.end_of_text}
    theirs, _ = load(tmp_path / "hf")
    ids = torch.tensor([tokenizer.encode("Music")])
    assert ids.shape[1] < theirs.generate(ids, attention_mask=torch.ones_like(ids)).shape[1] <= ids.shape[1] + 5


def test_same_model_same_bytes_and_what_was_there_is_replaced(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(tokenizer, tied=False, kv_heads=2)
    first = export(model, tokenizer, tmp_path / "a")
    (tmp_path / "a" / "stale.bin").write_bytes(b"old")
    (tmp_path / "a.tmp").mkdir()
    (tmp_path / "a.tmp" / "half.bin").write_bytes(b"of an export that died")
    second = export(model, tokenizer, tmp_path / "a")
    assert first == second
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(first["files"])
    assert str(tmp_path) not in json.dumps(first)


def test_a_file_in_the_way_is_one_sentence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        export(decoder(tokenizer, tied=True, kv_heads=2), tokenizer, tmp_path / "file" / "hf")


def test_parity_finds_other_weights_and_another_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(tokenizer, tied=True, kv_heads=2)
    export(model, tokenizer, tmp_path / "hf")
    other = decoder(tokenizer, tied=True, kv_heads=2)
    with torch.no_grad():
        other.layers[1].mlp.up_proj.weight.mul_(-1.0)
    with pytest.raises(LuthierError, match=r"token \d+ is"):
        check_parity(tmp_path / "hf", other, tokenizer, ["Music is"], 32)
    reduced = Tokenizer(tokenizer.merges[:-40], tokenizer.pattern)
    with pytest.raises(LuthierError, match="splits"):
        check_parity(tmp_path / "hf", model, reduced, [SENTENCES[1]], 4)


def test_parity_where_the_model_ends_and_where_the_context_ends(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(tokenizer, tied=True, kv_heads=2)
    export(model, tokenizer, tmp_path / "hf")
    prompt = tokenizer.decode(tokenizer.encode(" ".join(SENTENCES))[:60])
    report = check_parity(tmp_path / "hf", model, tokenizer, [prompt, ""], 500)
    room = model.config.max_seq_len - 1
    assert report["tokens"] == (room - len(tokenizer.encode(prompt))) + room


def test_parity_without_transformers(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    report = check_parity(tmp_path, decoder(tokenizer, tied=True, kv_heads=2), tokenizer, ["x"], 4)
    assert report["checked"] is False
    assert "transformers" in report["reason"]


def test_the_engine_is_not_disturbed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(tokenizer, tied=False, kv_heads=4)
    before = Engine(model).generate(tokenizer.encode("Music"), SamplingSection(temperature=0, max_new_tokens=20)).ids
    export(model, tokenizer, tmp_path / "hf", "bf16")
    assert Engine(model).generate(tokenizer.encode("Music"), SamplingSection(temperature=0, max_new_tokens=20)).ids == before
    assert all(p.dtype == torch.float32 for p in model.parameters())
