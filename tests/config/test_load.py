import tomllib
from pathlib import Path

import pytest

from luthier.config.load import load_recipe, resolve_model, validate
from luthier.config.write import recipe_toml
from luthier.errors import ConfigError


def test_override_beats_recipe_beats_default(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text("[optim]\nlr = 0.002\ngrad_clip = 2.0\n[model]\nn_layers = 3\n")
    second.write_text("[optim]\nlr = 0.004\n")
    recipe = load_recipe([first, second], ["optim.lr=5e-3"])
    assert (recipe.optim.lr, recipe.optim.grad_clip, recipe.model.n_layers, recipe.model.d_model) == (5e-3, 2.0, 3, 256)
    assert recipe.run.name == "a"


def test_paths_are_sources() -> None:
    recipe = load_recipe([], ['data.sources=["my folder", {path="b.jsonl", licence="MIT"}]'])
    assert [(source.kind, source.path, source.licence) for source in recipe.data.sources] == [
        ("files", "my folder", "unknown"),
        ("files", "b.jsonl", "MIT"),
    ]


def test_a_new_horizon_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[pretrain]\ntokens_per_param = 20\n")
    assert load_recipe([path], ["pretrain.steps=7"]).pretrain.tokens_per_param is None


def test_every_problem_at_once_with_the_nearest_key() -> None:
    """D4."""
    with pytest.raises(ConfigError) as caught:
        load_recipe([], ["optim.lrr=1", "modle.x=1", "optim.lr=-5", "model.n_heads=3", 'data.sources=[{kind="pypi", package="x"}]'])
    text = str(caught.value)
    assert "optim.lrr: unknown key; did you mean `lr`?" in text
    assert "modle: unknown key; did you mean `model`?" in text
    assert "optim.lr: Input should be greater than 0, got -5" in text
    assert "`n_heads` must divide `d_model`, got 3 and 256" in text
    assert "needs `sha256`, `member`" in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("override", ["", "=1", "lr", ".lr=1", "optim.=1"])
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_recipe([], [override])


def test_missing_recipe_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.toml").write_text("")
    with pytest.raises(ConfigError, match=r"did you mean .*quickstart\.toml"):
        load_recipe([tmp_path / "quickstrat.toml"])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[run", b"a = 1\na = 2"])
def test_broken_recipe_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.toml"):
        load_recipe([tmp_path / "a.toml"])


def test_written_recipe_reads_back_equal() -> None:
    values = [
        'data.sources=["a \\" b\\n\\u007f"]',
        'sft.sources=[{task="cookbook", path="x"}]',
        "pretrain.steps=5",
        'run.name="t"',
        "optim.betas=[0.8, 0.9]",
    ]
    recipe = load_recipe([], values)
    assert validate(tomllib.loads(recipe_toml(recipe))) == recipe


def test_every_setting_is_written_with_its_meaning() -> None:
    text = recipe_toml(load_recipe([], []))
    assert 'rows = "stream"  # `stream` cuts documents' in text and "# Peak learning rate; betas, decay and clipping" in text


def test_derived_dimensions() -> None:
    model = resolve_model(load_recipe([], ["model.d_model=192", "model.n_heads=6", "tokenizer.vocab_size=1000"]), vocab_size=900)
    assert (model.n_kv_heads, model.head_dim, model.d_ff, model.vocab_size, model.max_seq_len) == (6, 32, 512, 900, 256)


def test_rows_of_conversations_fit_into_the_context() -> None:
    load_recipe([], ["sft.seq_len=256"])
    load_recipe([], ["sft.seq_len=512", "model.max_seq_len=512"])
    with pytest.raises(ConfigError, match=r"^sft\.seq_len: rows of 257 tokens are longer than the model's context of 256; set"):
        load_recipe([], ["sft.seq_len=257"])
    with pytest.raises(ConfigError, match=r"post\.stop\.seq_len: rows of 512 tokens"):
        load_recipe([], ['post=[{kind="sft", name="stop", seq_len=512}]'])
    student = 'kind="distill", name="learn", student={d_model=64, max_seq_len=512}'
    load_recipe([], [f'post=[{{{student}}}, {{kind="sft", name="stop", seq_len=512}}]'])


def test_model_vocabulary_must_hold_the_tokenizer() -> None:
    with pytest.raises(ConfigError, match="at least the tokenizer's 4096"):
        resolve_model(load_recipe([], ["model.vocab_size=100"]))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1e-3", "optim.lrr: unknown key; did you mean `lr`?"),
        ("modle.d_model=64", "modle: unknown key; did you mean `model`?"),
        ('optim.lr="fast"', "optim.lr: Input should be a valid number"),
        ("model.n_layers=2.5", "model.n_layers: Input should be a valid integer"),
        ("pretrain.compile=maybe", "should be 'auto', 'on' or 'off'"),
        ("model.d_model=-64", "model.d_model: Input should be greater than or equal to 1, got -64"),
        ("optim.lr=-1e-3", "optim.lr: Input should be greater than 0, got -0.001"),
        ("optim.lr=10", "optim.lr: Input should be less than or equal to 1, got 10"),
        ("model.d_model=100", "`n_heads` must divide `d_model`, got 3 and 100"),
        ("model.n_kv_heads=4", "must be a multiple of `n_kv_heads`"),
        ("tokenizer.vocab_size=10", "greater than or equal to 300"),
        ("pretrain.steps=0", "pretrain.steps: Input should be greater than or equal to 1, got 0"),
    ],
)
def test_a_mistake_is_named_before_anything_is_fetched_or_written(
    override: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4."""
    from luthier.cli import call

    monkeypatch.setattr("luthier.data.reading.pypi.fetch_distribution", lambda *_: pytest.fail("fetched"))
    monkeypatch.setattr("luthier.data.reading.sources.fetch_distribution", lambda *_: pytest.fail("fetched"))
    quickstart = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.toml"
    assert call(["run", str(quickstart), override, f'runs.root="{tmp_path / "runs"}"']) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["a = " + "[" * 10_000, "run.seed = " + "9" * 5000, "a = " + "{b=" * 10_000])
def test_nesting_and_numbers_without_end_are_refused(text: str, tmp_path: Path) -> None:
    """D7."""
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.toml: not valid TOML"):
        load_recipe([tmp_path / "a.toml"])
    with pytest.raises(ConfigError, match=r"run\.seed: not a value"):
        load_recipe([], [text.replace(text.split(" = ")[0] + " = ", "run.seed=")])
