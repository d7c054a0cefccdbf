"""The class that goes with a model of no known architecture: loads with trust_remote_code, has our logits, generates with a cache."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.export.hf import SOURCE
from luthier.export.parity import check_parity
from luthier.model.decoder import Decoder
from luthier.plan.architectures import OWN, architecture, why_none
from luthier.tokenizer.tokenizer import Tokenizer
from tests.export.test_hf import export
from tests.small import small_decoder, small_shape
from tests.switches import draw_switches, shake

transformers = pytest.importorskip("transformers")

QT: dict[str, Any] = {"mlp": "gelu", "bias": True, "positions": ("none", "none", "none", "alibi"), "n_layers": 4}
"""qt-1b's switches."""
CASES: list[dict[str, Any]] = [
    QT,
    {"value_embeddings": True, "residual_scalars": True, "logit_softcap": 5.0, "mlp": "relu2", "qk_norm": True, "tie_embeddings": False},
    {"positions": ("rope_interleaved", "alibi", "rope"), "windows": (3, 9, 0), "n_layers": 3},
    {"windows": (1, 0), "qk_norm": True},
    {"key_offset": True, "windows": (0, 4), "n_heads": 6, "n_kv_heads": 3},
    {"positions": "learned", "norm": "layernorm", "windows": 6, "n_heads": 3, "n_kv_heads": 1},
    *({**draw_switches(random.Random(i)), "value_embeddings": True} for i in range(6)),
]


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `transformers` keeps the code that it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def exported(tokenizer: Tokenizer, directory: Path, switches: dict[str, Any]) -> tuple[Decoder, Any]:
    model = shake(small_decoder(7, vocab_size=tokenizer.vocab_size, **switches))
    assert export(model, tokenizer, directory)["format"] == OWN
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True, trust_remote_code=True
    )
    assert type(theirs).__name__ == OWN and type(theirs).__module__.startswith("transformers_modules") and not any(info.values()), info
    return model, theirs.eval()


@pytest.mark.parametrize("switches", CASES, ids=str)
def test_logits_and_greedy_tokens_are_ours(tokenizer: Tokenizer, tmp_path: Path, switches: dict[str, Any]) -> None:
    model, theirs = exported(tokenizer, tmp_path / "own", switches)
    ids = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = model.logits(model(ids))
        torch.testing.assert_close(theirs(ids).logits, ours, atol=1e-4, rtol=1e-4)
        first = theirs(ids[:, :30], use_cache=True)
        rest = theirs(ids[:, 30:], past_key_values=first.past_key_values).logits
        torch.testing.assert_close(torch.cat([first.logits, rest], 1), ours, atol=1e-4, rtol=1e-4)
    assert ours.std() > 0.3
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "own", trust_remote_code=True)
    assert their_tokenizer.encode("Music is") == tokenizer.encode("Music is")
    assert check_parity(tmp_path / "own", model, tokenizer, ["Music is"], 20)["tokens"] == 20


def test_a_padded_batch_is_as_each_alone_and_it_can_be_tuned(tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, theirs = exported(tokenizer, tmp_path / "own", {**QT, "positions": ("learned",), "windows": (5, 0), "norm": "rmsnorm"})
    texts = [tokenizer.encode("Music is"), tokenizer.encode("The violin has four strings")]
    longest = max(map(len, texts))
    ids = torch.tensor([[0] * (longest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    asked = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": []}
    together = theirs.generate(ids, attention_mask=mask, **asked)[:, longest:]
    for text, row in zip(texts, together, strict=True):
        alone = theirs.generate(torch.tensor([text]), attention_mask=torch.ones(1, len(text), dtype=torch.int64), **asked)
        assert alone[0, len(text) :].tolist() == row.tolist()
    loss = theirs.train()(ids[1:], labels=ids[1:]).loss
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad is not None for p in theirs.parameters())


def test_what_has_a_known_architecture_takes_no_own_class(tokenizer: Tokenizer, tmp_path: Path) -> None:
    export(small_decoder(vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "hf")
    assert not (tmp_path / "hf" / SOURCE.name).exists()
    assert architecture(small_shape(**QT)) is None and "no positions=none, alibi" in str(why_none(small_shape(**QT)))


def test_the_class_is_whole_in_its_file() -> None:
    source = SOURCE.read_text("utf-8")
    assert "import luthier" not in source and "from luthier" not in source and source.count("\n") < 250
