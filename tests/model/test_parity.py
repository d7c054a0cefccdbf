"""The decoder against references that share no code with it: float64 numpy for every switch, and transformers' for what it has."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from luthier.config.sampling import SamplingSection
from luthier.export.hf import export_hugging_face
from luthier.model.attention import Place
from luthier.model.cache import KVCache
from luthier.model.decoder import Decoder
from luthier.plan.architectures import FAMILIES, Family, architecture
from luthier.tokenizer.chat import CHAT_TEMPLATE
from luthier.tokenizer.tokenizer import Tokenizer
from tests.model.reference import logits as by_numpy
from tests.small import small_decoder, small_shape, small_tokenizer
from tests.switches import draw_switches, shake

LENGTH, DOCUMENTS = 30, [0] * 11 + [4] * 17 + [2] * 2


def close(found: Tensor, expected: Tensor, share: float = 1e-4) -> None:
    """No value is off by more than a share of the largest."""
    assert found.shape == expected.shape and expected.std() > 0.1, "logits that hardly differ prove nothing"
    assert (found.double() - expected.double()).abs().max() <= share * expected.abs().max()


def tokens(rows: int, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def ours(model: Decoder, ids: Tensor, documents: list[int] | None = None) -> Tensor:
    return model.logits(model(ids, doc_ids=None if documents is None else torch.tensor([documents]).expand(len(ids), -1)))


@torch.inference_mode()
def with_cache(model: Decoder, ids: Tensor, documents: list[int] | None = None) -> Tensor:
    """Logits of a prompt at once, then a token at a time, then a few."""
    cache, parts, begin = KVCache(model.config, len(ids), ids.shape[1], "cpu"), list[Tensor](), 0
    for end in (13, 14, 15, ids.shape[1]):
        seen = None if documents is None else torch.tensor([documents[:end]]).expand(len(ids), -1)
        parts.append(model.logits(model(ids[:, begin:end], cache=cache, doc_ids=seen)))
        begin = end
    return torch.cat(parts, 1)


@pytest.mark.parametrize("i", range(60))
def test_every_switch_is_what_the_formulas_say(i: int) -> None:
    chance = random.Random(1000 + i)
    heads = chance.choice([{"n_heads": 4}, {"n_heads": 6, "n_kv_heads": 3}, {"n_heads": 3, "n_kv_heads": 1, "head_dim": 12}])
    model = shake(small_decoder(i, **{**draw_switches(chance), "rope_theta": 300.0, **heads}))
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    for documents in (None, DOCUMENTS):
        expected = torch.from_numpy(by_numpy(model.config, weights, tokens(1)[0].tolist(), documents))[None]
        close(ours(model, tokens(1), documents), expected)
        close(with_cache(model, tokens(1), documents), expected)


def test_the_numpy_reference_sees_every_switch() -> None:
    """A reference that ignored a switch would agree with a decoder that did."""
    ids, plain = tokens(1)[0].tolist(), small_decoder(3, positions="none")
    changes: list[dict[str, Any]] = [
        {"norm": "layernorm"}, {"mlp": "gelu"}, {"mlp": "relu2"}, {"bias": True}, {"windows": 4}, {"qk_norm": True}, {"logit_softcap": 2.0},
        {"residual_scalars": True}, {"value_embeddings": True}, {"tie_embeddings": False},
        *({"positions": kind} for kind in ("rope", "rope_interleaved", "alibi", "learned")),
    ]  # fmt: skip
    seen = [by_numpy(plain.config, {k: v.numpy() for k, v in plain.state_dict().items()}, ids)]
    for change in changes:
        model = shake(small_decoder(3, **{"positions": "none", **change}))
        seen.append(by_numpy(model.config, {k: v.numpy() for k, v in model.state_dict().items()}, ids))
    assert all(np.abs(a - b).max() > 1e-2 for i, a in enumerate(seen) for b in seen[:i])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_tokenizer(300)


def draw_for(family: Family, chance: random.Random) -> dict[str, Any]:
    """A random model that an architecture can say."""
    heads = chance.choice([2, 3, 4])
    shared = chance.choice([n for n in range(1, heads + 1) if heads % n == 0])
    exact = family.heads in ("whole", "full")
    windows = [0, *([5] if "all" in family.windows else []), *([(5, 0), (0, 0, 9)] if "some" in family.windows else [])]
    return {
        "norm": family.norm,
        "mlp": chance.choice(sorted(family.mlps)),
        "bias": chance.choice(sorted(family.biases)),
        "positions": [chance.choice(sorted(family.positions)) for _ in range(1 if "learned" in family.positions else 3)],
        "windows": chance.choice(windows),
        "qk_norm": family.qk_norm,
        "logit_softcap": chance.choice([None, 5.0]) if family.softcap else None,
        "tie_embeddings": chance.random() < 0.5,
        "n_layers": chance.choice([1, 2, 3]),
        "n_heads": heads,
        "n_kv_heads": heads if family.heads == "full" else shared,
        "d_model": 24,
        "head_dim": 24 // heads if exact else chance.choice([6, 12]),
        "d_ff": 96 if family.four_fold else 40,
        "rope_theta": chance.choice([300.0, 10_000.0]),
        "norm_eps": chance.choice([1e-5, 1e-3]),
        "dropout": 0.1,
    }


@pytest.mark.parametrize("i", range(4 * len(FAMILIES)))
def test_random_models_are_what_transformers_computes(i: int, tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    family = FAMILIES[i % len(FAMILIES)]
    model = shake(small_decoder(i, vocab_size=tokenizer.vocab_size, **draw_for(family, random.Random(i))))
    named = architecture(model.config)
    assert named == family.name or named in [earlier.name for earlier in FAMILIES[: i % len(FAMILIES)]]
    export_hugging_face(model, tokenizer, tmp_path / "hf", "fp32", CHAT_TEMPLATE, SamplingSection())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    for length in (1, 2, LENGTH, model.config.max_seq_len):
        ids = tokens(2, length)
        with torch.inference_mode():
            expected = theirs(input_ids=ids).logits
        close(ours(model, ids), expected)
        if length >= 16:
            close(with_cache(model, ids), expected)
    with torch.inference_mode():
        alone = [theirs(input_ids=tokens(1)[:, a:b]).logits for a, b in ((0, 11), (11, 28), (28, 30))]
    close(ours(model, tokens(1), DOCUMENTS), torch.cat(alone, 1))


def loaded(name: str, config: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    """A model of transformers with these weights, each of which it has, and no other."""
    transformers = pytest.importorskip("transformers")
    common = {"vocab_size": 97, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "attn_implementation": "eager"}
    theirs = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**common, **config)).eval()
    theirs.load_state_dict(weights)
    return theirs


def prefixed(model: Decoder) -> dict[str, Tensor]:
    """Weights as Llama and its kin name them, with the head."""
    return {
        **{f"model.{name}": w for name, w in model.state_dict().items() if name != "lm_head.weight"},
        "lm_head.weight": model.head_weight,
    }


LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
}


def test_interleaved_pairs_are_heliums() -> None:
    model = shake(small_decoder(5, n_layers=3, positions="rope_interleaved", bias=True, tie_embeddings=False))
    weights = prefixed(model)
    for layer in range(3):
        bias = weights.pop(f"model.layers.{layer}.self_attn.o_proj.bias")  # Helium has none here
        model.layers[layer].self_attn.o_proj.bias.data -= bias
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    config = {**LLAMA, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5, "rope_parameters": rope}
    with torch.inference_mode():
        close(ours(model, tokens(2)), loaded("Helium", config, weights)(tokens(2)).logits)


def test_alibi_with_biases_is_blooms() -> None:
    model = shake(small_decoder(5, norm="layernorm", mlp="gelu", bias=True, positions="alibi", n_kv_heads=4, d_ff=128))
    table = model.embed_tokens.weight.data
    table -= table.mean(1, keepdim=True)  # so that Bloom's norm of the embedding leaves it alone
    table *= ((1 - 1e-5) ** 0.5 / table.std(1, keepdim=True, correction=0)).double().float()
    names = {
        "embed_tokens": "word_embeddings", "layers": "h", "norm": "ln_f", "self_attn": "self_attention", "o_proj": "dense",
        "up_proj": "dense_h_to_4h", "down_proj": "dense_4h_to_h",
    }  # fmt: skip
    weights = {
        "transformer.word_embeddings_layernorm.weight": torch.ones(32),
        "transformer.word_embeddings_layernorm.bias": torch.zeros(32),
    }
    state = model.state_dict()
    for key, value in state.items():
        if ".k_proj." in key or ".v_proj." in key:
            continue
        if ".q_proj." in key:  # of each head its queries, keys, values
            parts = [state[key.replace("q_proj", f"{part}_proj")].unflatten(0, (4, 8)) for part in "qkv"]
            value, key = torch.stack(parts, 1).flatten(0, 2), key.replace("q_proj", "query_key_value")
        weights["transformer." + ".".join(names.get(part, part) for part in key.split("."))] = value
    theirs = loaded("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, {**weights, "lm_head.weight": model.head_weight})
    for block in theirs.transformer.h:
        block.mlp.gelu_impl = nn.GELU()  # Bloom's own is GELU's approximation by tanh
    with torch.inference_mode():
        close(ours(model, tokens(2)), theirs(tokens(2)).logits)


def test_soft_cap_squared_relu_qk_norm_and_the_normalised_embedding_are_nanochats() -> None:
    """NanoChat norms without gains and turns the other way, so gains are 1 and halves change places; its first norm is our b of 1."""
    model = small_decoder(
        5, n_layers=3, mlp="relu2", qk_norm=True, logit_softcap=5.0, residual_scalars=True, tie_embeddings=False, init_std=0.5
    )
    model.resid_lambdas.data[0], model.x0_lambdas.data[0] = 0.0, 1.0
    names, weights = {"up_proj": "fc1", "down_proj": "fc2"}, dict[str, Tensor]()
    for key, value in prefixed(model).items():
        if "norm" in key or "lambdas" in key:
            continue
        if ".q_proj." in key or ".k_proj." in key:
            value = value.unflatten(0, (-1, 2, 4)).flip(1).flatten(0, 2)
        weights[".".join(names.get(part, part) for part in key.split("."))] = value
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    config = {**LLAMA, "rms_norm_eps": 1e-5, "final_logit_softcapping": 5.0, "rope_parameters": rope}
    with torch.inference_mode():
        close(ours(model, tokens(2)), loaded("NanoChat", config, weights)(tokens(2)).logits)


def test_windows_and_soft_cap_are_gemma_2s_without_its_norms_behind_branches() -> None:
    """No gain makes those two norms the identity, so Gemma 2 itself has no model of ours; the rest of its code is a reference."""
    model = shake(small_decoder(5, n_layers=3, windows=(7, 0, 7), logit_softcap=5.0))
    weights: dict[str, Tensor] = {}
    for key, value in prefixed(model).items():
        key = key.replace("post_attention_layernorm", "pre_feedforward_layernorm")
        weights[key] = value - 1 if key.endswith("norm.weight") else value
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] / 32**0.5
    behind = {f"model.layers.{i}.post_{part}_layernorm.weight": torch.zeros(32) for i in range(3) for part in ("attention", "feedforward")}
    config = {
        **LLAMA, "hidden_activation": "silu", "query_pre_attn_scalar": 8, "rms_norm_eps": 1e-5, "final_logit_softcapping": 5.0,
        "attn_logit_softcapping": None, "sliding_window": 7, "tie_word_embeddings": False,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }  # fmt: skip
    theirs = loaded("Gemma2", config, {**weights, **behind})
    with torch.inference_mode():
        whole = theirs(tokens(2)).logits
        for layer in theirs.model.layers:
            layer.post_attention_layernorm = layer.post_feedforward_layernorm = nn.Identity()
        close(ours(model, tokens(2)), theirs(tokens(2)).logits)
    assert (whole - ours(model, tokens(2))).abs().max() > 0.1


def test_attention_with_one_head_is_olmo_2s() -> None:
    """OLMo 2 norms behind its branches only, and queries and keys over all heads at once; with one head, attention is the same."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention, Olmo2RotaryEmbedding

    config = small_shape(n_heads=1, n_kv_heads=1, head_dim=32, qk_norm=True)
    attention = shake(small_decoder(5, **config.model_dump())).layers[0].self_attn
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    shape = {"hidden_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_parameters": rope}
    other = transformers.Olmo2Config(**shape, attn_implementation="eager")
    theirs = Olmo2Attention(other, 0).eval()
    theirs.load_state_dict(attention.state_dict())
    x, positions = torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(3)), torch.arange(LENGTH)
    hidden = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)[None, None]
    with torch.inference_mode():
        expected = theirs(x, Olmo2RotaryEmbedding(other)(x, positions[None]), hidden)[0]
        close(attention(x, Place.of(config, positions, torch.float32, None)), expected)
