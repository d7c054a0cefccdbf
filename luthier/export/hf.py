"""A Hugging Face folder. In: a decoder and its tokenizer. Out: files that `transformers` loads. Next: parity, card.

The only file that knows Hugging Face's keys. Most decoders of luthier are a Llama or one of its kin there, so the weights are a copy.
What no architecture has goes with `modeling_luthier.py`, its source.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.config.model import ModelConfig
from luthier.config.sampling import SamplingSection
from luthier.model.decoder import Decoder
from luthier.model.weights import save_tensors, weights_sha256
from luthier.plan.architectures import OWN, architecture
from luthier.runs.files import make_directory, sha256_file, storage_errors, write_json, write_text
from luthier.tokenizer.tokenizer import Tokenizer

SOURCE = Path(__file__).with_name("modeling_luthier.py")
"""Our own class; it imports nothing of luthier."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export_hugging_face(
    model: Decoder, tokenizer: Tokenizer, directory: Path, dtype: str, chat_template: str, sampling: SamplingSection
) -> dict[str, Any]:
    """Write the folder beside its place, then move it there; what was there before is replaced.

    Raises: StorageError
    """
    name = architecture(model.config) or OWN
    temporary = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_directory(temporary)
    tensors = {key: value.detach().to("cpu", DTYPES[dtype]) for key, value in model.state_dict().items()}
    weights = named_as(model.config, name, tensors)
    save_tensors(weights, temporary / "model.safetensors")
    write_json(temporary / "config.json", _config(model.config, name, tokenizer, dtype))
    if name == OWN:
        write_text(temporary / SOURCE.name, SOURCE.read_text("utf-8"))
    write_json(temporary / "generation_config.json", _generation_config(tokenizer, sampling))
    tokenizer.save(temporary / "tokenizer.json")
    write_json(temporary / "tokenizer_config.json", _tokenizer_config(model, tokenizer, chat_template))
    with storage_errors(directory):
        replaced = directory.with_name(f"{directory.name}.old")
        shutil.rmtree(replaced, ignore_errors=True)
        if directory.exists():
            directory.rename(replaced)
        temporary.rename(directory)
        shutil.rmtree(replaced, ignore_errors=True)
    files = {path.name: sha256_file(path) for path in sorted(directory.iterdir())}
    return {"format": name, "dtype": dtype, "weights_sha256": weights_sha256(model.state_dict()), "files": files}


FUSED = {
    "GPT2LMHeadModel": {
        "embed_tokens": "wte", "embed_positions": "wpe", "layers": "h", "norm": "ln_f", "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2", "self_attn": "attn", "qkv_proj": "c_attn", "o_proj": "c_proj", "up_proj": "c_fc",
        "down_proj": "c_proj",
    },
    "MptForCausalLM": {
        "embed_tokens": "wte", "layers": "blocks", "norm": "norm_f", "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2",
        "self_attn": "attn", "qkv_proj": "Wqkv", "o_proj": "out_proj", "mlp": "ffn",
    },
}  # fmt: skip
"""How the parts of our names are called where queries, keys and values are one matrix."""
_RENAMED = {
    "VaultGemmaForCausalLM": {"post_attention_layernorm": "pre_feedforward_layernorm"},
    "Starcoder2ForCausalLM": {"up_proj": "c_fc", "down_proj": "c_proj"},
}
"""What is called otherwise in kin of Llama."""


def named_as(config: ModelConfig, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as an architecture names and lays them out."""
    if name == OWN:
        return dict(tensors)
    if name in FUSED:
        return _fused(tensors, FUSED[name], turned=name == "GPT2LMHeadModel")
    found: dict[str, Tensor] = {}
    renamed = _RENAMED.get(name, {})
    for key, value in tensors.items():
        parts = key.split(".")
        halves = parts[0] == "layers" and config.position_of(int(parts[1])) == "rope_interleaved"
        if halves and any(part in ("q_proj", "k_proj", "q_norm", "k_norm") for part in parts):
            value = _half_split(value, config.head_dim)
        if name == "VaultGemmaForCausalLM":
            value = _as_gemma(config, key, value)
        key = ".".join(renamed.get(part, part) for part in parts)
        found[key if key.startswith("lm_head.") else f"model.{key}"] = value
        if config.norm == "layernorm" and not config.bias and parts[-2].endswith("norm"):  # theirs always shift
            found[f"model.{key.removesuffix('weight')}bias"] = torch.zeros_like(value)
    return found


def _as_gemma(config: ModelConfig, key: str, value: Tensor) -> Tensor:
    """Gemma multiplies embeddings by sqrt(D) and norms by one more than their gain; a tied head is made up for in the last norm."""
    root = config.d_model**0.5
    if key == "embed_tokens.weight":
        return value / root
    if key == "norm.weight" and config.tie_embeddings:
        return value * root - 1
    return value - 1 if key.endswith("norm.weight") else value


def _half_split(value: Tensor, head_dim: int) -> Tensor:
    """Bring the pairs (2i, 2i + 1) of every head to (i, i + E/2), which leaves products of queries and keys as they are.

    Shapes: (H*E, ...) -> (H*E, ...)
    """
    return value.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _fused(tensors: Mapping[str, Tensor], names: Mapping[str, str], turned: bool) -> dict[str, Tensor]:
    """Join queries, keys and values; `turned` matrices of the blocks are (in, out)."""
    joined: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if ".q_proj." in key:
            value = torch.cat([tensors[key.replace("q_proj", f"{part}_proj")] for part in "qkv"])  # (3D, ...)
            key = key.replace("q_proj", "qkv_proj")
        elif ".k_proj." in key or ".v_proj." in key:
            continue
        renamed = ".".join(names.get(part, part) for part in key.split("."))
        if turned and key.endswith("_proj.weight"):
            value = value.t().contiguous()
        joined[key if key.startswith("lm_head.") else f"transformer.{renamed}"] = value
    return joined


def _config(config: ModelConfig, name: str, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    common = {
        "architectures": [name],
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "bos_token_id": tokenizer.special.begin_of_text,
        "eos_token_id": tokenizer.special.end_of_text,
        "pad_token_id": tokenizer.special.pad,
        "use_cache": True,
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
    }
    if name == OWN:
        return {**common, **_own(config)}
    if name == "GPT2LMHeadModel":
        return {**common, **_gpt2(config)}
    if name == "MptForCausalLM":
        return {**common, **_mpt(config)}
    return {**common, **_llama(config), **_kin(config, name)}


def _llama(config: ModelConfig) -> dict[str, Any]:
    c = config
    return {
        "model_type": "llama",
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": {"swiglu": "silu"}.get(c.mlp, c.mlp),
        "max_position_embeddings": c.max_seq_len,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "attention_bias": c.bias,
        "mlp_bias": c.bias,
        "attention_dropout": 0.0,
    }


_KIN = {
    "LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3", "SmolLM3ForCausalLM": "smollm3", "ArceeForCausalLM": "arcee",
    "VaultGemmaForCausalLM": "vaultgemma", "Starcoder2ForCausalLM": "starcoder2", "StableLmForCausalLM": "stablelm",
}  # fmt: skip


def _kin(config: ModelConfig, name: str) -> dict[str, Any]:
    """What tells a relative of Llama from it."""
    found: dict[str, Any] = {"model_type": _KIN[name]}
    windows = [config.window_of(layer) for layer in range(config.n_layers)]
    window = max((size for size in windows if size), default=None)
    types = ["sliding_attention" if size else "full_attention" for size in windows]
    if name in ("Qwen3ForCausalLM", "SmolLM3ForCausalLM"):
        found |= {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": types}
    if name == "SmolLM3ForCausalLM":
        found["no_rope_layers"] = [int(config.position_of(layer) != "none") for layer in range(config.n_layers)]
    if name == "VaultGemmaForCausalLM":
        found |= {
            "hidden_activation": "silu", "query_pre_attn_scalar": config.head_dim, "attn_logit_softcapping": None,
            "final_logit_softcapping": config.logit_softcap, "sliding_window": window or config.max_seq_len, "layer_types": types,
        }  # fmt: skip
    if name == "Starcoder2ForCausalLM":
        dropout = {"residual_dropout": config.dropout, "embedding_dropout": config.dropout}
        found |= {"norm_epsilon": config.norm_eps, "use_bias": config.bias, "sliding_window": window, **dropout}
    if name == "StableLmForCausalLM":
        rope = {"rope_type": "default", "rope_theta": config.rope_theta, "partial_rotary_factor": 1.0}
        found |= {"layer_norm_eps": config.norm_eps, "use_qkv_bias": False, "partial_rotary_factor": 1.0, "rope_parameters": rope}
    return found


def _gpt2(config: ModelConfig) -> dict[str, Any]:
    c = config
    return {
        "model_type": "gpt2", "n_positions": c.max_seq_len, "n_embd": c.d_model, "n_layer": c.n_layers, "n_head": c.n_heads,
        "n_inner": c.d_ff, "activation_function": c.mlp, "layer_norm_epsilon": c.norm_eps, "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout, "attn_pdrop": 0.0,
    }  # fmt: skip


def _mpt(config: ModelConfig) -> dict[str, Any]:
    c = config
    return {
        "model_type": "mpt", "d_model": c.d_model, "n_heads": c.n_heads, "n_layers": c.n_layers, "expansion_ratio": 4,
        "max_seq_len": c.max_seq_len, "layer_norm_epsilon": c.norm_eps, "no_bias": True, "resid_pdrop": c.dropout, "emb_pdrop": c.dropout,
        "attn_config": {"alibi": True},
    }  # fmt: skip


def _own(config: ModelConfig) -> dict[str, Any]:
    """The shape as it is; `transformers` has its own names for three of its fields."""
    theirs = {"vocab_size", "tie_embeddings", "init_std"}
    classes = {"AutoConfig": "LuthierConfig", "AutoModelForCausalLM": OWN}
    return {
        "model_type": "luthier",
        "auto_map": {auto: f"{SOURCE.stem}.{name}" for auto, name in classes.items()},
        **config.model_dump(mode="json", exclude=theirs),
    }


def _generation_config(tokenizer: Tokenizer, sampling: SamplingSection) -> dict[str, Any]:
    special = tokenizer.special
    common = {
        "bos_token_id": special.begin_of_text,
        "eos_token_id": [special.end_of_turn, special.end_of_text],
        "pad_token_id": special.pad,
        "max_new_tokens": sampling.max_new_tokens,
    }  # no repetition penalty: transformers would apply it to greedy decoding too, which must stay the argmax
    if sampling.temperature == 0:
        return {**common, "do_sample": False}
    return {**common, "do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}


def _tokenizer_config(model: Decoder, tokenizer: Tokenizer, chat_template: str) -> dict[str, Any]:
    names = {value: name for name, value in tokenizer.special.by_string.items()}
    special = tokenizer.special
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_seq_len,
        "bos_token": names[special.begin_of_text],
        "eos_token": names[special.end_of_text],
        "pad_token": names[special.pad],
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "chat_template": chat_template,
    }
