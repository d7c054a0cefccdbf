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
from tests.stages.conftest import make_tiny, write_instructions, write_pairs
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


def test_another_optimizer_trains_one_stage_alone(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(tiny, ["optim.name=muon", "sft.optimizer=adamw", "sft.lr=1e-3"])
    settled = recipe.sft.settle_optim(recipe.optim)
    assert (settled.name, settled.lr, settled.muon_lr) == ("adamw", 1e-3, recipe.optim.muon_lr * 1e-3 / recipe.optim.lr)
    assert settled.betas == recipe.optim.betas
    assert load_recipe(tiny, ["sft.muon_lr=0.5"]).sft.settle_optim(recipe.optim).muon_lr == 0.5
    plain = load_recipe(tiny)
    assert not {"optimizer", "muon_lr"} & set(load_stage("sft", plain).settings(plain)["sft"])
    run = Path(run_json([*tiny, "pretrain.steps=2", "optim.name=muon", "sft.optimizer=adamw", "--until", "sft"], capsys)["run"])
    before, after = (set(load_tensors(max((run / stage).glob("checkpoints/*/training.safetensors")))) for stage in ("pretrain", "sft"))
    assert any(name.startswith("muon.") for name in before) and not any(name.startswith("muon.") for name in after)


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
    assert load_stage("stop", recipe).needs == ("tokenizer", "pack", "sft") and load_stage("stop", recipe).trains
    without = load_recipe(tiny, [posted(tmp_path), "sft.sources=[]"])
    assert load_stage("stop", without).needs == ("tokenizer", "pack", "pretrain")
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
        (['post=[{kind="grpo", name="a", sources=[{problems="programs", path="x"}]}]'], "set `allow_code` to allow that"),
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


def test_a_stage_that_teaches_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", "sampling.max_new_tokens=40", "--until", "eval"]
    run = Path(run_json([*tiny, posted(tmp_path), "post.stop.supervise=end", "post.stop.lr=1e-2", "post.stop.epochs=30"], capsys)["run"])
    ended = json.loads((run / "eval" / "eval.json").read_text())["endings"]
    assert ended["sft"]["ended"] == 0 and ended["tuned"]["ended"] == ended["tuned"]["asked"] == 1
    made = json.loads((run / "stop" / "stage.json").read_text())["summary"]["conversations"]["train"]
    assert made["supervised_tokens"] == made["conversations"]
    losses = [
        row["val/loss"] for line in (run / "stop" / "metrics.jsonl").read_text().splitlines() if "val/loss" in (row := json.loads(line))
    ]
    assert losses[-1] < 0.1


def _lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_what_cannot_be_learned_from_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=48", "--until", "bank"]
    ask, long, a = {"role": "user", "content": "What is it?"}, "river " * 60, {"role": "assistant", "content": "a"}
    wrong = [{"messages": [{"content": "x"}]}, {"messages": [ask, {"role": "assistant", "content": ""}]}]
    chats = [{"messages": [{**ask, "content": f"What? {i}"}, {"role": "assistant", "content": f"It {i}."}]} for i in range(20)]
    talks = _lines(tmp_path / "talks.jsonl", *wrong, {"messages": [{**ask, "content": long}, a]}, *chats)
    pairs = [{"prompt": f"What? {i}", "chosen": f"Good {i}.", "rejected": "Bad."} for i in range(20)]
    bad = [{"prompt": [{"content": "x"}], "chosen": "a", "rejected": "b"}, {"prompt": "x", "chosen": "", "rejected": "b"}]
    compared = _lines(tmp_path / "pairs.jsonl", *bad, {"prompt": long, "chosen": "a", "rejected": "b"}, *pairs)
    dpo = f'{{kind="dpo", name="kind", global_batch_tokens=256, validation_share=0.2, sources=["{compared}"]}}'
    shape = 'steps=1, prompts_per_step=2, group_size=2, max_new_tokens=4, validation_share=0.3, rules=[{rule="ended"}]'
    grpo = f'{{kind="grpo", name="bank", {shape}, sources=[{{problems="prompts", path="{talks}"}}]}}'
    assert call(["run", "--json", *tiny, f'sft.sources=[{{path="{talks}"}}]', f"post=[{dpo}, {grpo}]", "sft.validation_share=0.2"]) == 0
    said = capsys.readouterr()
    run, long_ones = Path(json.loads(said.out)["run"]), [{"place": "talks.jsonl:3", "what": "left out"}]
    for stage, key, file in (("sft", "sources", "talks"), ("kind", "sources", "pairs"), ("bank", "problems", "talks")):
        (source,) = json.loads((run / stage / "stage.json").read_text())["summary"][key]
        places = [(one["reason"], f"{one['file']}:{one['line']}") for one in source["left_out"]]
        assert places == [("missing_role", f"{file}.jsonl:1"), ("empty_answer", f"{file}.jsonl:2")]
    for stage, key, file in (("sft", "conversations", "talks"), ("kind", "preferences", "pairs")):
        sides = json.loads((run / stage / "stage.json").read_text())["summary"][key]
        assert [one for side in sides.values() for one in side["too_long"]] == [{**long_ones[0], "place": f"{file}.jsonl:3"}]
    assert "the first at pairs.jsonl:3 (left out)" in said.err
    assert "problems leave no room for an answer, the first at talks.jsonl:3; left out" in said.err


def test_verbs_end_behind_the_last_stage_of_their_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, pairs = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64"], write_pairs(tmp_path / "pairs.jsonl")
    shape = f'global_batch_tokens=256, validation_share=0.2, sources=["{pairs}"]'
    post = f'post=[{{kind="dpo", name="kind", {shape}}}, {{kind="dpo", name="kinder", {shape}}}, {{kind="reward", name="judge", {shape}}}]'
    assert call(["dpo", "--json", *tiny, post]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][-1]["name"] == "kinder"
    assert call(["dpo", "show", "--json", "-n", "2", *tiny, post]) == 0
    shown = json.loads(capsys.readouterr().out)["pairs"]
    assert [row["side"] for row in shown] == ["chosen", "rejected"] * 2 and shown[0]["place"].startswith("pairs.jsonl:")
    asked, answered = shown[0]["pieces"]
    assert (
        not asked["learned"]
        and asked["text"].startswith("<|user|> What is the ")
        and "is fine." in answered["text"]
        and answered["learned"]
    )
    narrow = post.replace('name="kinder"', 'name="kinder", seq_len=12')
    assert call(["dpo", "show", "--json", "-n", "1", *tiny, narrow]) == 0
    shown = json.loads(capsys.readouterr().out)["pairs"]
    assert [(row["fate"], row["tokens"]) for row in shown] == [("left out", 0)] * 2, "both sides together are longer than a row"
    assert call(["dpo", "show", "--stage", "judge", *tiny, post]) == 0
    assert "⟦" in (out := capsys.readouterr().out) and ", rejected: " in out and "3 of " in out
    for arguments, words in (
        (["grpo", *tiny, post], "no stage of kind 'grpo'"),
        (["dpo", "show", "--stage", "sft", *tiny, post], "can be shown so: kind, kinder, judge"),
        (["sft", "show", "--stage", "kind", *tiny, post], "can be shown so: none"),
    ):
        assert call(arguments) == 2 and words in capsys.readouterr().err
    assert call(["sft", "show", "--stage", "stop", "--json", "-n", "1", *tiny, posted(tmp_path), "post.stop.supervise=end"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["conversations"]
    assert row["supervised_tokens"] == 1 and row["pieces"][-1] == {"text": "<|end_of_turn|>", "learned": True, "tokens": 1}
