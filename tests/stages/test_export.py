"""A model that no Hugging Face architecture has: its run ends well, and says why there is no folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.config.load import validate
from luthier.stages import export, training
from luthier.train import checkpoint
from tests.small import small_decoder


def test_what_cannot_be_exported_does_not_spoil_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "final_checkpoint", lambda directory: directory)
    monkeypatch.setattr(checkpoint, "load_model", lambda directory: (small_decoder(value_embeddings=True), None))
    said: list[str] = []
    recipe = validate({"pretrain": {"steps": 1}, "sft": {"sources": []}})
    job: Any = SimpleNamespace(
        recipe=recipe, inputs={"pretrain": tmp_path}, directory=tmp_path, summaries={}, progress=SimpleNamespace(warn=said.append)
    )
    outcome = export.STAGE.run(job)
    assert outcome.summary["folder"] is None and "value_embeddings" in outcome.summary["parity"]["reason"]
    assert len(said) == 1 and not any(tmp_path.iterdir())
