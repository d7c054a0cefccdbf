"""A Hugging Face folder. In: a decoder and its tokenizer. Out: files that `transformers` loads. Next: parity, card.

The only file that knows Hugging Face's keys. Every decoder of luthier is a Llama there, so the weights are a copy.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from luthier.config.sampling import SamplingSection
from luthier.model.decoder import Decoder
from luthier.model.weights import save_tensors, weights_sha256
from luthier.runs.files import make_directory, sha256_file, storage_errors, write_json
from luthier.tokenizer.tokenizer import Tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export_hugging_face(
    model: Decoder, tokenizer: Tokenizer, directory: Path, dtype: str, chat_template: str, sampling: SamplingSection
) -> dict[str, Any]:
    """Write the folder beside its place, then move it there; what was there before is replaced.

    Raises: StorageError
    """
    temporary = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_directory(temporary)
    weights = {_name(name): value.detach().to("cpu", DTYPES[dtype]) for name, value in model.state_dict().items()}
    save_tensors(weights, temporary / "model.safetensors")
    write_json(temporary / "config.json", _config(model, tokenizer, dtype))
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
    return {"format": "LlamaForCausalLM", "dtype": dtype, "weights_sha256": weights_sha256(model.state_dict()), "files": files}


def _name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _config(model: Decoder, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    c = model.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_seq_len,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "tie_word_embeddings": c.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": c.init_std,
        "bos_token_id": tokenizer.special.begin_of_text,
        "eos_token_id": tokenizer.special.end_of_text,
        "pad_token_id": tokenizer.special.pad,
        "use_cache": True,
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
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
