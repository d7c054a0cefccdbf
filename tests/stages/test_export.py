"""A model that no Hugging Face architecture has: the folder brings our own class, and is proven equal like any other."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.config.load import validate
from luthier.stages import export, training
from luthier.train import checkpoint
from tests.small import small_decoder, small_tokenizer


def test_a_model_of_no_known_architecture_brings_its_own_class(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    tokenizer = small_tokenizer(300)
    model = small_decoder(vocab_size=tokenizer.vocab_size, value_embeddings=True, positions=("none", "alibi"))
    monkeypatch.setattr(training, "final_checkpoint", lambda directory: directory)
    monkeypatch.setattr(checkpoint, "load_model", lambda directory: (model, tokenizer))
    bar = contextlib.nullcontext(SimpleNamespace(advance=lambda count: None))
    export_section, shape = {"parity_prompts": 2, "parity_tokens": 5}, {"value_embeddings": True}
    recipe = validate({"pretrain": {"steps": 1}, "sft": {"sources": []}, "export": export_section, "model": shape})
    job: Any = SimpleNamespace(
        recipe=recipe, inputs={"pretrain": tmp_path}, directory=tmp_path, summaries={}, progress=SimpleNamespace(bar=lambda *a: bar)
    )
    outcome = export.STAGE.run(job)
    assert outcome.summary["folder"] == "huggingface" and outcome.summary["parity"]["checked"] is True
    source = Path(export.__file__).parents[1] / "export" / "modeling_luthier.py"
    assert (tmp_path / "huggingface" / source.name).read_bytes() == source.read_bytes()
    assert "trust_remote_code=True" in (tmp_path / "huggingface" / "README.md").read_text("utf-8")
    assert capsys.readouterr() == ("", ""), "nobody is asked whether code may run"
