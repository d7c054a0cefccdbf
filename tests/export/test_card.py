"""The model card: a valid head, every licence and attribution, numbers, and no way out of its Markdown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthier.config.load import validate
from luthier.config.schema import Recipe
from luthier.export.card import model_card

WIKI = {
    "name": "vital-articles",
    "kind": "pypi",
    "licence": "CC-BY-SA-4.0",
    "attribution": "Wikipedia contributors, https://en.wikipedia.org",
    "documents": 9981,
    "bytes": 5_029_774,
}
BOOK = {"name": "cookbook", "licence": "MIT", "attribution": "Wikibooks | contributors", "conversations": 6012}


def recipe(tuned: bool = True) -> Recipe:
    source = {"task": "messages", "path": "x.jsonl"}
    return validate(
        {
            "description": "A small chat model\nthat explains things",
            "run": {"name": "quickstart"},
            "pretrain": {"tokens": 2_000_000, "sample_prompts": ['Say "hi"']},
            "sft": {"sources": [source] if tuned else []},
        }
    )


def summaries(*sources: dict[str, Any], tuned: bool = True) -> dict[str, Any]:
    figures = {"val_loss": 4.12343, "perplexity": 61.77, "val_bpb": 1.60211, "tokens": 28_795, "bytes": 102_445}
    said = {"answer": "It is\n``` a fence", "finish_reason": "stop", "tokens": 9}
    sft = {"sources": [BOOK], "steps": 300, "weights_sha256": "b" * 64} if tuned else {"skipped": True}
    return {
        "data": {"sources": list(sources) or [WIKI]},
        "pretrain": {
            "params": 3_999_488, "steps": 489, "tokens": 2_002_944, "weights_sha256": "a" * 64,
            "compute": {"device": "cpu", "precision": "bf16", "compiled": True, "threads": 2}, "tok_per_s": 1e4,
        },
        "sft": sft,
        "eval": {
            "bits_per_byte": {"base": figures, "tuned": figures} if tuned else {"base": figures},
            "answers": [{"question": "What is music?", "base": said, **({"tuned": said} if tuned else {})}],
        },
    }  # fmt: skip


def head(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    opening, text, _ = card.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(text)


def test_facts_are_there() -> None:
    card = model_card(recipe(), summaries())
    for fact in ("3,999,488", "2,002,944", "489", "300", "4.1234", "1.6021", "CC-BY-SA-4.0", "Wikipedia contributors", "5.0 MB", "9,981",
                 "Wikibooks", "6,012", "b" * 64, "facts are often wrong", "apply_chat_template", "seed 1"):  # fmt: skip
        assert fact in card, fact
    assert "1e4" not in card and "10000.0" not in card, "speed has no place in it"


def test_problems_are_training_data() -> None:
    asked = {"name": "sums | hard", "licence": "CC0-1.0", "attribution": "its makers", "problems": 812, "unseen": 90}
    measured = {"name": "exam", "licence": "Unlicense", "attribution": None, "problems": 0, "unseen": 50}
    card = model_card(
        recipe(), {**summaries(), "learn": {"problems": [asked, measured, {"name": "arithmetic", "problems": 4000, "unseen": 9}]}}
    )
    assert "| sums \\| hard | fine-tuning | CC0-1.0 | its makers | 812 problems |" in card
    assert "CC-BY-SA-4.0, CC0-1.0, MIT" in head(card)["license_name"] and "exam" not in card and "arithmetic" not in card


def test_head() -> None:
    assert head(model_card(recipe(False), summaries(tuned=False)))["license"] == "cc-by-sa-4.0"
    mixed = head(model_card(recipe(), summaries()))
    assert mixed["license"] == "other"
    assert "CC-BY-SA-4.0, MIT" in mixed["license_name"]
    assert "conversational" in mixed["tags"] and mixed["library_name"] == "transformers"
    assert "language" not in mixed
    assert head(model_card(recipe(), summaries(), ["en"]))["language"] == ["en"]
    unknown = {"name": "my_folder", "licence": "unknown", "attribution": None}
    assert head(model_card(recipe(False), summaries(unknown, tuned=False)))["license"] == "unknown"
    strange = {"name": "x", "licence": 'a: "b"\n---\nevil: 1', "attribution": None}
    assert set(head(model_card(recipe(False), summaries(strange, tuned=False)))) == {"license", "library_name", "pipeline_tag", "tags"}


def test_a_base_model_is_not_called_a_chat_model() -> None:
    card = model_card(recipe(False), summaries(tuned=False))
    assert "apply_chat_template" not in card and "Fine-tuning" not in card
    assert json.dumps('Say "hi"') in card


def test_text_stays_in_its_place() -> None:
    source = {"name": "a|b", "licence": "MIT", "attribution": "x | y\n\n# z <script>", "documents": 1}
    card = model_card(recipe(), summaries(source))
    row = next(line for line in card.splitlines() if "a\\|b" in line)
    assert row.replace("\\|", "").count("|") == 6
    assert "\n# z" not in card and "<script" not in card
    assert "````text\nIt is\n``` a fence\n````" in card


def test_little_is_known() -> None:
    card = model_card(recipe(False), {})
    assert "## Model" in card and "## Training data" not in card and "## Evaluation" not in card


def test_the_code_in_the_card_is_code() -> None:
    for tuned in (False, True):
        card = model_card(recipe(tuned), summaries(tuned=tuned))
        code = compile(card.split("```python\n")[1].split("\n```")[0], "card", "exec")
        assert "generate" in code.co_names


def test_the_shape_is_the_models_own() -> None:
    plain = model_card(recipe(), summaries())
    assert "RMSNorm before" in plain and "RoPE, base 10000" in plain and "trust_remote_code" not in plain and "soft cap" not in plain
    model = {"norm": "layernorm", "mlp": "gelu", "bias": True, "positions": ["none", "alibi"], "logit_softcap": 15.0}
    card = model_card(validate({"pretrain": {"steps": 1}, "model": model}), {})
    for fact in ("LayerNorm before", "GELU, hidden", "none, ALiBi by turns", "biases", "soft cap 15.0", "trust_remote_code=True"):
        assert fact in card, fact
    assert "base 10000" not in card and "SwiGLU" not in card


def test_same_inputs_same_card() -> None:
    assert model_card(recipe(), summaries()) == model_card(recipe(), summaries())
