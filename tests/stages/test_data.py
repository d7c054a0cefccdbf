"""The verb data: what became of every source, as tables and as JSON; examples; where the work is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli import call
from tests.data.corpus import write_stories


@pytest.fixture
def mixed(tmp_path: Path) -> list[str]:
    """Arguments of a recipe of two sources, one of them with texts that rules drop."""
    write_stories(tmp_path / "texts" / "stories.jsonl", "story", 60)
    write_stories(tmp_path / "texts" / "facts.jsonl", "fact", 90)
    with open(tmp_path / "texts" / "facts.jsonl", "a") as file:
        file.write('{"text": "Too few words."}\nnot json\n')
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(
        f"""
[runs]
root = "{tmp_path / "runs"}"
workers = 1
[data]
validation_share = 0.1
[data.filter]
rules = ["gopher_quality"]
gopher_quality = {{ min_stop_words = 0, min_alphabetic_words = 0.5 }}
[[data.sources]]
name = "stories"
path = "{tmp_path / "texts" / "stories.jsonl"}"
licence = "CC0-1.0"
weight = 0.7
[[data.sources]]
name = "facts"
path = "{tmp_path / "texts" / "facts.jsonl"}"
weight = 0.3
"""
    )
    return [str(recipe)]


def test_tables_name_sources_and_rules(mixed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["data", *mixed]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split("  ")[0].strip(): line.split() for line in lines if line.strip()}
    assert cells["source"][:4] == ["source", "licence", "files", "read"]
    assert cells["stories"][1] == "CC0-1.0" and cells["facts"][1] == "unknown"
    assert cells["gopher_quality.min_words"] == ["gopher_quality.min_words", "0", "1"]
    assert cells["bad_json"] == ["bad_json", "0", "1"] and int(cells["not_selected"][2]) > 20
    assert "the mix is limited by stories" in lines
    assert any(line.startswith("corrupt: facts: bad_json in facts.jsonl at ") for line in lines)


def test_json_is_the_manifest_and_the_same_for_any_spread(mixed: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(["data", *mixed, "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    stories, facts = one["sources"]
    share = stories["contributed"]["train"]["bytes"] / one["splits"]["train"]["bytes"]
    assert share == pytest.approx(0.7, abs=0.02) and facts["dropped"]["bad_json"] == 1
    where = ["--workers", "2", "--rank", "0", "--world", "1", "--workspace", str(tmp_path / "work")]
    assert call(["data", *where, *mixed, f"runs.root={tmp_path / 'other'}", "--json"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert (two["fingerprint"], two["sources"]) == (one["fingerprint"], one["sources"])
    assert list((tmp_path / "work").glob("part-*.parquet")), "a workspace that was named is kept"
    assert not (Path(one["directory"]) / "parts").exists()


def test_a_token_budget_is_applied_when_documents_are_packed(mixed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pack = ["pack.seq_len=16", "tokenizer.vocab_size=300"]
    assert call(["pack", *mixed, *pack]) == 0
    capsys.readouterr()
    assert call(["pack", *mixed, *pack, "data.budget.tokens=2000", "--json"]) == 0
    stages = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["data"]["cached"] and stages["tokenizer"]["cached"] and not stages["pack"]["cached"]
    manifest = json.loads((Path(stages["pack"]["directory"]) / "manifest.json").read_text())
    train = manifest["splits"]["train"]
    assert 1000 < train["tokens"] <= 2000
    assert train["tokens"] == sum(source["tokens"] for source in train["sources"].values())


def test_inspect_shows_what_a_rule_dropped(mixed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["data", "inspect", *mixed, "--rule", "gopher_quality"]) == 0
    out = capsys.readouterr().out
    assert "Too few words." in out and "3 < 50" in out and "kept" not in out
    assert call(["data", "inspect", *mixed, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in rows} == {"kept", "gopher_quality.min_words"}
    assert call(["data", "inspect", *mixed, "--rule", "c4"]) == 2
    assert "there are examples of gopher_quality.min_words, kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "spark"], "--engine must be one of local, ray"),
        (["--rank", "0", "--world", "2"], "need --workspace"),
        (["--rank", "2", "--world", "2", "--workspace", "w"], "--rank must be in 0..WORLD-1"),
        (["--world", "3"], "--world 3 needs --rank"),
        (["--rank", "0", "--world", "2", "--workspace", "w", "--engine", "ray"], "do not go together"),
    ],
)
def test_wrong_flags_are_explained(mixed: list[str], capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert call(["data", *mixed, *flags]) == 2
    assert message in capsys.readouterr().err


def test_help_names_both_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["data", "--help"]) == 0
    text = capsys.readouterr().out
    assert "build" in text and "inspect" in text and "may be left out" in text
