import pytest
import torch

from luthier.model.cache import KVCache
from luthier.model.decoder import Decoder, initialise
from luthier.model.weights import load_weights, save_weights, weights_sha256
from tests.small import small_shape as config


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_equal_transformers_llama(tied: bool, kv_heads: int) -> None:
    transformers = pytest.importorskip("transformers")
    ours = config(tie_embeddings=tied, n_kv_heads=kv_heads)
    model = Decoder(ours)
    initialise(model, 3)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=kv_heads,
            head_dim=8, rms_norm_eps=1e-5, rope_theta=10_000.0, tie_word_embeddings=tied, max_position_embeddings=64,
        )
    )  # fmt: skip
    weights = {f"model.{name}": value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    theirs.load_state_dict({**weights, "lm_head.weight": model.head_weight})
    ids = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model.logits(model(ids)), theirs(ids).logits, atol=2e-5, rtol=1e-5)


def test_cache_equals_recomputing() -> None:
    model = Decoder(config())
    initialise(model, 1)
    ids = torch.randint(0, 97, (2, 50), generator=torch.Generator().manual_seed(2))
    cache = KVCache(model.config, 2, 50, "cpu")
    with torch.inference_mode():
        whole = model(ids)
        parts = [model(ids[:, a:b], cache=cache) for a, b in ((0, 20), (20, 21), (21, 40), (40, 41))]
        cache.truncate(30)
        parts = [torch.cat(parts, 1)[:, :30], model(ids[:, 30:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="holds 50"):
        model(ids[:, :1], cache=cache)


def test_packed_documents_do_not_see_each_other() -> None:
    model = Decoder(config())
    initialise(model, 1)
    a, b = torch.randint(0, 97, (1, 11)), torch.randint(0, 97, (1, 17))
    doc_ids = torch.tensor([[0] * 11 + [1] * 17])
    with torch.inference_mode():
        packed = model(torch.cat([a, b], 1), doc_ids=doc_ids)
        torch.testing.assert_close(packed[:, :11], model(a), atol=1e-5, rtol=1e-5)
        # rotary positions are relative, so a document may stand anywhere in its row
        torch.testing.assert_close(packed[:, 11:], model(b), atol=1e-4, rtol=1e-4)


def test_weights_round_trip_and_hash(tmp_path) -> None:
    model = Decoder(config())
    initialise(model, 1)
    save_weights(model, tmp_path / "m.safetensors")
    loaded = load_weights(tmp_path / "m.safetensors")
    assert weights_sha256(loaded) == weights_sha256(model.state_dict())
    loaded["norm.weight"] = loaded["norm.weight"].clone()
    loaded["norm.weight"][3] += 1e-6
    assert weights_sha256(loaded) != weights_sha256(model.state_dict())


def test_same_seed_same_weights_whatever_came_before() -> None:
    hashes = set()
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = Decoder(config())
        initialise(model, 7)
        hashes.add(weights_sha256(model.state_dict()))
    assert len(hashes) == 1


def test_bf16_products_over_fp32_weights() -> None:
    model = Decoder(config(init_std=0.05))
    initialise(model, 1)
    ids = torch.randint(0, 97, (2, 20))
    exact = model(ids)
    model.compute_dtype = torch.bfloat16
    rounded = model(ids)
    assert rounded.dtype == torch.bfloat16 and {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(rounded.float(), exact, atol=0.1, rtol=0.1)
