"""The verbs of tokenizers: made by a recipe, imported, shown, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.stages.tokenizers import visible
from luthier.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.corpus import tokenizer
from tests.tokenizer.kinds import tokenizer_of
from tests.tokenizer.test_foreign import peer_file


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert call([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def made(tiny: list[str], *more: str) -> Path:
    """Run a recipe up to its tokenizer and give the run's directory."""
    assert call(["tokenizer", *tiny, *more]) == 0
    runs = [path.parent for path in (Path(tiny[0]).parent / "runs").glob("tiny-*/run.json")]
    return max(runs, key=lambda path: path.stat().st_mtime)


def test_a_recipe_alone_means_train(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    directory = made(tiny)
    capsys.readouterr()
    stages = said(capsys, "tokenizer", "train", *tiny)["stages"]
    assert [stage["name"] for stage in stages] == ["data", "tokenizer"] and all(stage["cached"] for stage in stages)
    assert call(["tokenizer", "--json", *tiny]) == 0
    measures = json.loads((directory / "tokenizer" / "measures.json").read_text())
    assert list(measures["sources"]) == ["corpus"] and measures["view"] and measures["splits"]["words"]["occurrences"] > 0
    assert measures["bytes_per_token"] == measures["sources"]["corpus"]["bytes_per_token"] > 2


def test_help_names_the_verbs_and_says_that_train_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["tokenizer", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("train", "import", "show", "compare")) and "may be left out" in text
    assert call(["tokenizer", "missing.toml"]) == 2
    assert "no such recipe" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["characters", "uncased"])
def test_other_kinds_go_through_packing(tiny: list[str], kind: str) -> None:
    settings = [f"tokenizer.kind={kind}", "tokenizer.layout.place=front"]
    assert call(["pack", *tiny, *settings]) == 0
    (run,) = (Path(tiny[0]).parent / "runs").glob("tiny-*")
    ours = Tokenizer.load(run / "tokenizer" / "tokenizer.json")
    manifest = json.loads((run / "pack" / "manifest.json").read_text())
    assert ours.kind == kind and manifest["end_of_text"] == ours.special.end_of_text == 0
    assert manifest["vocab_size"] == ours.vocab_size


def test_an_imported_tokenizer_is_named_by_a_recipe(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = peer_file(tmp_path / "foreign.json", "gpt4")
    found = said(capsys, "tokenizer", "import", str(foreign), "--to", str(tmp_path / "mine"))
    ours = Tokenizer.load(tmp_path / "mine" / "tokenizer.json")
    assert found["fingerprint"] == ours.fingerprint and found["pattern"] == "gpt4" and "<|end_of_turn|>" in found["added"]
    run = made(tiny, f"tokenizer.path={tmp_path / 'mine'}")
    assert Tokenizer.load(run / "tokenizer" / "tokenizer.json").parts == ours.parts
    assert call(["tokenizer", *tiny, f"tokenizer.path={tmp_path / 'none'}"]) == 2
    assert "there is no" in capsys.readouterr().err


def test_what_cannot_be_imported_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = peer_file(tmp_path / "foreign.json")
    foreign.write_text(foreign.read_text("utf-8").replace('"normalizer": null', '"normalizer": {"type": "NFC"}'), "utf-8")
    assert call(["tokenizer", "import", str(foreign), "--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "normalizer" in error and "Traceback" not in error and not (tmp_path / "tokenizer.json").exists()
    assert call(["tokenizer", "import", str(foreign), "--to", str(tmp_path), "--pattern", "gpt5"]) == 2
    assert "gpt2, gpt4, digits" in capsys.readouterr().err


def test_text_is_shown_as_its_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer().save(tmp_path / "tokenizer.json")
    text = "The river\n\x1b[2J <|user|> é中"
    found = said(capsys, "tokenizer", "show", text, "--tokenizer", str(tmp_path))
    ids = [token["id"] for token in found["tokens"]]
    assert ids == tokenizer().encode(text) and found["count"] == len(ids) and found["bytes"] == len(text.encode())
    assert call(["tokenizer", "show", text, "--tokenizer", str(tmp_path / "tokenizer.json")]) == 0
    plain = capsys.readouterr().out
    assert "\x1b" not in plain and "↵" in plain and " ".join(map(str, ids)) in plain
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert call(["tokenizer", "show", text, "--tokenizer", str(tmp_path)]) == 0
    coloured = capsys.readouterr().out
    assert "\x1b[38;5;16;48;5;153m" in coloured and "\x1b[2J" not in coloured


def test_which_tokenizer_is_never_guessed(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    root = str(Path(tiny[0]).parent / "runs")
    assert call(["tokenizer", "show", "x", "--root", root]) == 2
    assert "there is no run" in capsys.readouterr().err
    made(tiny)
    capsys.readouterr()
    assert said(capsys, "tokenizer", "show", "x", "--root", root)["count"] == 1
    made(tiny, "tokenizer.vocab_size=350")
    assert call(["tokenizer", "show", "x", "--root", root]) == 2
    assert "which tokenizer" in capsys.readouterr().err


def test_two_are_compared_on_a_file_or_on_a_runs_own_text(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for kind in ("bpe", "uncased drop"):
        paths.append(str(tmp_path / f"{kind}.json"))
        tokenizer_of(kind).save(Path(paths[-1]))
    (tmp_path / "text.txt").write_text("The river rose in 2025.\n\nThe old teacher holds it.")
    found = said(capsys, "tokenizer", "compare", *paths, "--text", str(tmp_path / "text.txt"))
    assert list(found["sources"]) == ["text.txt"] and found["kind"] == ["bpe", "uncased"]
    assert call(["tokenizer", "compare", *paths]) == 2
    assert "--text" in capsys.readouterr().err
    run = made(tiny)
    capsys.readouterr()
    assert call(["tokenizer", "compare", str(run), paths[0]]) == 0
    table = capsys.readouterr().out
    assert "bytes per token, corpus" in table and "tokens each, numbers" in table and "entries no text gives" in table


def test_what_would_move_the_cursor_is_made_visible() -> None:
    assert visible("a\tb\n\r\x07 é\u202e") == "a⇥b↵␍\\u0007 é\\u202e"
