"""Stages of `[[post]]`: their order, what they begin with, caching, and what takes the last model."""

import json
from pathlib import Path

import pytest

from luthier.cli import call
from luthier.config.load import load_recipe
from luthier.errors import ConfigError
from luthier.model.weights import load_tensors
from luthier.stages.order import load_stage, model_stages, stage_names
from luthier.stages.pipeline import stages_until
from tests.stages.conftest import make_tiny, write_instructions
from tests.stages.test_pipeline import run_json

SMALL = ["pretrain.steps=6", "sft.epochs=0.2", "eval.questions=['What does the river do?']", "export.parity_prompts=0"]


def posted(tmp_path: Path, name: str = "stop") -> str:
    """An override that fine-tunes a second time."""
    path = write_instructions(tmp_path / "more.jsonl", 30)
    shape = "epochs = 1, global_batch_tokens = 256, eval_tokens = 512"
    return f"""post=[{{kind="sft", name="{name}", {shape}, sources=[{{task="instructions", path="{path}"}}]}}]"""


def test_a_recipe_without_post_has_the_keys_it_had(tiny: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(tiny)
    assert stage_names(recipe) == ("data", "tokenizer", "pack", "pretrain", "sft", "eval", "export", "report")
    assert model_stages(recipe) == ("pretrain", "sft")
    assert load_stage("eval", recipe).needs == ("pack", "pretrain", "sft")
    for name in stage_names(recipe):
        assert "post" not in load_stage(name, recipe).settings(recipe)
    assert "post" not in recipe.decides() and "post" in load_recipe(tiny, [posted(tmp_path)]).decides()


def test_adapters_decide_a_key_only_where_there_are_some(tiny: list[str]) -> None:
    plain, other, adapted = (load_recipe([*tiny], overrides) for overrides in ([], ["sft.lora_alpha=4"], ["sft.lora_rank=4"]))
    settings = [load_stage("sft", recipe).settings(recipe)["sft"] for recipe in (plain, other, adapted)]
    assert settings[0] == settings[1] and "lora_alpha" not in settings[0]
    assert settings[2]["lora_rank"] == 4 and settings[2]["lora_alpha"] == 16.0


def test_fine_tuning_with_adapters_moves_only_what_they_adapt(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    adapters = ["sft.lora_rank=2", 'sft.lora_targets=["up_proj", "down_proj"]', "sft.lr=1e-2", "sft.epochs=0.3"]
    run = Path(run_json([*tiny, "pretrain.steps=2", *adapters, "--until", "sft"], capsys)["run"])
    before, after = (load_tensors(max((run / stage).glob("checkpoints/*/model.safetensors"))) for stage in ("pretrain", "sft"))
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {f"layers.{layer}.mlp.{name}_proj.weight" for layer in range(2) for name in ("up", "down")}


def test_stages_begin_with_the_model_before_them(tiny: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(tiny, [posted(tmp_path)])
    assert stage_names(recipe)[4:7] == ("sft", "stop", "eval")
    assert model_stages(recipe)[-1] == "stop"
    assert load_stage("stop", recipe).needs == ("tokenizer", "sft") and load_stage("stop", recipe).trains
    without = load_recipe(tiny, [posted(tmp_path), "sft.sources=[]"])
    assert load_stage("stop", without).needs == ("tokenizer", "pretrain")
    assert stages_until(recipe, "stop")[-1] == "stop"
    with pytest.raises(ConfigError, match="no stage 'go'"):
        stages_until(recipe, "go")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (['post=[{kind="sft", name="eval"}]'], "a name of its own"),
        (['post=[{kind="sft", name="a"}, {kind="sft", name="a"}]'], "a name of its own"),
        (['post=[{kind="sft", name="A b"}]'], "name"),
        (['post=[{kind="nothing", name="a"}]'], "kind"),
        (['post=[{kind="sft", name="a"}]', "post.b.lr=1e-4"], "names are: a"),
        (['post=[{kind="dpo", name="a", sources=["x"], z_loss=0.1}]'], "z_loss: this training does not know"),
        (['post=[{kind="dpo", name="a", sources=["x"], loss="ipo", label_smoothing=0.1}]'], "label_smoothing: this training"),
        (['post=[{kind="distill", name="a", teacher="x", label_smoothing=0.1}]'], "label_smoothing: this training"),
        (['post=[{kind="dpo", name="a"}]'], "sources: Field required"),
        (['post=[{kind="dpo", name="a", sources=["x"], betta=1}]'], "did you mean `beta`"),
    ],
)
def test_mistakes_in_post_are_refused(tiny: list[str], overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(tiny, overrides)


def test_a_table_is_overridden_by_its_name(tiny: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(tiny, [posted(tmp_path), "post.stop.lr=0.25"])
    assert recipe.post[0].lr == 0.25 and recipe.post[0].epochs == 1


def test_whole_life_with_a_second_tuning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [*make_tiny(tmp_path), *SMALL]
    plain = run_json(tiny, capsys)
    first = run_json([*tiny, posted(tmp_path)], capsys)
    assert [stage["name"] for stage in first["stages"]][4:] == ["sft", "stop", "eval", "export", "report"]
    assert [stage["cached"] for stage in first["stages"]] == [True] * 5 + [False] * 4
    assert first["weights_sha256"] != plain["weights_sha256"] and set(first["post"]) == {"stop"}
    run = Path(first["run"])
    evaluated = json.loads((run / "eval" / "eval.json").read_text())
    assert list(evaluated["bits_per_byte"]) == ["base", "sft", "tuned"]
    report = (run / "report.html").read_text()
    assert "<h2>stop <small>(sft)</small></h2>" in report
    root = ["--root", str(run.parent)]
    assert call(["verify", run.name, *root]) == 0
    assert call(["chat", run.name, "--ask", "What does the river do?", "--json", *root]) == 0
    capsys.readouterr()

    again = run_json([*tiny, posted(tmp_path)], capsys)
    assert all(stage["cached"] for stage in again["stages"])
    changed = run_json([*tiny, posted(tmp_path), "post.stop.lr=1e-3", "--until", "stop"], capsys)
    assert [stage["cached"] for stage in changed["stages"]] == [True] * 5 + [False]
    assert changed["weights_sha256"] != first["weights_sha256"]

    victim = next((run / "stop").glob("checkpoints/*/model.safetensors"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert call(["verify", run.name, "--repair", *root]) == 0
    assert max((run / "stop").glob("checkpoints/*/model.safetensors")).read_bytes() == whole
