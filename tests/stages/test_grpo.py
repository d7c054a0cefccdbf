"""Stage kind grpo: killed anywhere, rollouts included, it gives the same weights; what goes wrong is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import call
from luthier.config.load import load_recipe
from luthier.config.post import GrpoSection
from luthier.config.schema import Recipe
from luthier.config.write import recipe_toml
from luthier.errors import ConfigError
from luthier.post.policy import PolicyObjective
from luthier.post.rollouts import Rollouts
from luthier.stages.grpo import build_problems
from luthier.stages.order import load_stage
from luthier.tasks.grading.judge import Grade, Judge
from luthier.tasks.problems import Problem, sums
from tests.stages.conftest import THINGS, make_tiny, write_pairs
from tests.stages.test_pipeline import run_json
from tests.stages.test_post import SMALL

SHAPE = (
    'steps = 6, prompts_per_step = 2, group_size = 4, max_new_tokens = 6, eval_problems = 4, eval_every = 3, sample_every = 3, '
    'eval_tokens = 256, lr = 1e-2, warmup_steps = 0, length_weight = 1.0, length_margin = 6, checkpoint_every = 1, micro_batch_size = 3'
)  # fmt: skip


def posted(more: str = "") -> str:
    return f'post=[{{kind="grpo", name="learn", {SHAPE}, {more} sources=[{{problems="arithmetic"}}]}}]'


class Killed(Exception):
    """What stands for the end of the process."""


def test_killed_anywhere_gives_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = posted("updates_per_rollout = 2, kl_coef = 0.05, temperature = 0.9, top_p = 0.95,")
    tiny = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", "--until", "learn"]
    run_json([*tiny[:-1], "sft"], capsys)
    expected = run_json([*tiny, recipe, "post.learn.log_every=1"], capsys)
    again = run_json([*tiny, recipe, "post.learn.keep_checkpoints=3"], capsys)
    assert again["stages"][-1]["cached"], "how many are kept does not change the model"
    other = run_json([*tiny, posted("updates_per_rollout = 2,")], capsys)
    assert other["weights_sha256"] != expected["weights_sha256"]

    (directory,) = (path for path in (tmp_path / "runs" / "store" / "learn").iterdir() if path.name in expected["stages"][-1]["directory"])
    directory.rename(tmp_path / "finished")
    make, judge = Rollouts.make, PolicyObjective.__call__
    calls = {"make": 0, "step": 0}

    def counted_make(self, number, problems):  # type: ignore[no-untyped-def]
        calls["make"] += 1
        if calls["make"] == 2:
            raise Killed
        return make(self, number, problems)

    def counted_step(self, *given):  # type: ignore[no-untyped-def]
        calls["step"] += 1
        if calls["step"] == 15:
            raise Killed
        return judge(self, *given)

    monkeypatch.setattr(Rollouts, "make", counted_make)
    monkeypatch.setattr(PolicyObjective, "__call__", counted_step)
    for _ in range(2):
        with pytest.raises(Killed):
            call(["run", *tiny, recipe])
        capsys.readouterr()
    assert run_json([*tiny, recipe], capsys)["weights_sha256"] == expected["weights_sha256"]
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert {"post/reward", "post/equal_groups", "post/kl", "post/entropy", "post/clip_share", "post/ended"} <= set(rows[0])
    assert {"val/reward", "val/exact", "val/bpb_change"} <= {key for row in rows for key in row}
    samples = [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    assert any(sample["prompt"].startswith("reward ") for sample in samples)


def test_a_grader_that_fails_does_not_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "grade", lambda self, problem, response: Grade(0.0, "raised ValueError: no"))
    tiny = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", "--until", "learn"]
    assert call(["run", *tiny, posted(), "post.learn.length_weight=0.0"]) == 0
    assert "raised ValueError: no; it counts as 0, training goes on" in capsys.readouterr().err
    (log,) = (tmp_path / "runs" / "store" / "learn").glob("*/metrics.jsonl")
    rows = [row for line in log.read_text().splitlines() if "train/loss" in (row := json.loads(line))]
    assert {(row["post/faults"], row["post/equal_groups"], row["train/loss"]) for row in rows} == {(1.0, 1.0, 0.0)}


def banked(tmp_path: Path, judge: str = "judge", more: str = "") -> str:
    """A reward model, and training by it and by a rule on a bank of prompts."""
    pairs, bank = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "bank.jsonl"
    chats = [{"messages": [{"role": "user", "content": f"What is the {noun}?"}, {"role": "assistant", "content": "A."}]} for noun in THINGS]
    bank.write_text("".join(json.dumps(chat) + "\n" for chat in [*chats, *chats, {"messages": [{"content": "?"}]}]))
    reward = (
        f'{{kind="reward", name="judge", global_batch_tokens = 256, validation_share = 0.2, lr = 2e-3, epochs = 2, sources = ["{pairs}"]}}'
    )
    rules = '[{rule = "ended", weight = 0.5}]'
    source = f'sources=[{{problems="prompts", path="{bank}"}}], validation_share = 0.3'
    return f'post=[{reward}, {{kind="grpo", name="learn", {SHAPE}, {more} reward_model="{judge}", rules={rules}, {source}}}]'


def test_a_bank_of_prompts_with_a_learned_reward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [*make_tiny(tmp_path), *SMALL, "pack.seq_len=64", "--until", "learn"]
    made = run_json([*tiny, banked(tmp_path)], capsys)
    run = Path(made["run"])
    rows = [json.loads(line) for line in (run / "learn" / "metrics.jsonl").read_text().splitlines()]
    assert all("val/exact" not in row for row in rows) and any("val/reward" in row for row in rows)
    trained = [row for row in rows if "post/reward" in row]
    assert len({row["post/reward"] for row in trained}) > 1 and any("val/reward_model" in row for row in rows)
    for row in trained:  # and the length, which this recipe takes something off for
        assert row["post/reward_model"] + 0.5 * row["post/rule_ended"] >= row["post/reward"] - 1e-5
    stage = json.loads((run / "learn" / "stage.json").read_text())
    (bank,) = stage["summary"]["problems"]
    assert bank["problems"] + bank["unseen"] == len(THINGS) and bank["dropped"] == {"duplicate": len(THINGS), "missing_role": 1}
    assert set(stage["inputs"]) == {"tokenizer", "pack", "sft", "judge", "source.0"}

    elsewhere = run_json([*tiny, banked(tmp_path, str((run / "judge").resolve()))], capsys)
    assert elsewhere["weights_sha256"] == made["weights_sha256"], "the same reward model by its path"
    other = run_json([*tiny, banked(tmp_path), "post.judge.epochs=1"], capsys)
    assert [stage["cached"] for stage in other["stages"][-2:]] == [False, False]
    assert other["weights_sha256"] != made["weights_sha256"]
    assert call(["run", *tiny, banked(tmp_path, str((run / "sft").resolve()))]) == 2
    assert "no checkpoint of a reward model" in capsys.readouterr().err
    assert call(["run", *tiny, banked(tmp_path, str((run / "judge").resolve())), "tokenizer.vocab_size=380"]) == 1
    assert "it has another chat template than the recipe" in capsys.readouterr().err, "its special tokens have other ids"


def test_problems_to_measure_on_are_never_trained_on(tmp_path: Path) -> None:
    def write(name: str, numbers: range) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"question": f"{n} eggs?", "answer": f"#### {n}"}) + "\n" for n in numbers))
        return f'{{problems="word_problems", path="{path}"}}'

    known, test = write("known", range(30)), write("test", range(25, 45))
    arithmetic = '{problems="arithmetic", digits=1}'

    def built(sources: str, more: str = "") -> tuple[list[Problem], list[Problem], list[dict[str, Any]]]:
        post = f'post=[{{kind="grpo", name="learn", validation_share=0.3, sources=[{sources}] {more}}}]'
        (section,) = load_recipe([str(tmp_path / "tiny.toml")], [post]).post
        assert isinstance(section, GrpoSection)
        return build_problems(section, 1, tmp_path)

    make_tiny(tmp_path)
    train, unseen, (row,) = built(known)
    assert len(train) + len(unseen) == 30 and (row["problems"], row["unseen"]) == (len(train), len(unseen)) and unseen
    lines = (json.dumps({"question": f"{n} eggs?", "answer": f"#### {n + more}"}) for n in range(30) for more in (0, 1))
    (tmp_path / "twice.jsonl").write_text("\n".join(lines))
    both = built(f'{{problems="word_problems", path="{tmp_path / "twice.jsonl"}"}}')[:2]
    assert sum(map(len, both)) == 60 and not {one.prompt for one in both[0]} & {one.prompt for one in both[1]}, "one side for all answers"
    train, unseen, (held, row) = built(known, f", eval_sources=[{test}]")
    assert sorted(one.place for one in unseen) == sorted(f"test.jsonl:{n}" for n in range(1, 21))
    assert {one.place for one in train} == {f"known.jsonl:{n}" for n in range(1, 26)} and row["dropped"] == {"duplicate": 5}
    assert (held["unseen"], held["problems"], row["unseen"], row["problems"]) == (20, 0, 0, 25)
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({"prompt": f"{n} eggs?"}) + "\n" for n in range(25, 45)))
    other = f'{{problems="prompts", path="{tmp_path / "other.jsonl"}", limit=3}}'
    train, few, (held, row) = built(known, f', eval_sources=[{other}], rules=[{{rule="ended"}}]')
    assert (len(few), held["unseen"], len(train), row["dropped"]) == (3, 3, 25, {"duplicate": 5}), "asked with another answer, it is asked"
    assert built(known, f', eval_sources=[{other}], rules=[{{rule="ended"}}]')[1] == few
    first, *rest = built(arithmetic)[0]
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": first.prompt[0].content, "answer": "#### 0"}))
    assert built(arithmetic, f', eval_sources=[{{problems="word_problems", path="{tmp_path / "sums.jsonl"}"}}]')[0] == rest
    asked, _, _ = built(known.replace("}", ', grader="exact"}'))
    assert {one.grader for one in asked} == {"exact"}
    mixed, sums, _ = built(f"{known}, {arithmetic}", f", eval_sources=[{arithmetic}]")
    assert {one.id for one in mixed}.isdisjoint(one.id for one in sums) and len(mixed) > 80 and all("+" in str(one.prompt) for one in sums)


def test_unseen_sums_are_those_that_fine_tuning_leaves_out_whatever_the_share() -> None:
    given = {record["question"] for record in sums(1, 2, "+")}
    for share in (0.1, 0.3):
        section = GrpoSection.model_validate(
            {"kind": "grpo", "name": "learn", "validation_share": share, "eval_problems": 9000, "sources": [{"problems": "arithmetic"}]}
        )
        train, unseen, _ = build_problems(section, 1, Path())
        assert given.isdisjoint(one.prompt[0].content for one in unseen) and {one.prompt[0].content for one in train} == given


def test_a_reward_model_stands_before_what_it_rewards(tmp_path: Path) -> None:
    arguments = [str(make_tiny(tmp_path)[0])]
    recipe = load_recipe(arguments, [banked(tmp_path)])
    assert load_stage("learn", recipe).needs == ("tokenizer", "pack", "sft", "judge")
    with pytest.raises(ConfigError, match="no stage of kind 'reward' before it, got 'critic'"):
        load_recipe(arguments, [banked(tmp_path, "critic")])


def test_settings_that_came_later_leave_earlier_keys_alone(tmp_path: Path) -> None:
    recipe = load_recipe([str(make_tiny(tmp_path)[0])], [posted()])
    later = {name for name, field in GrpoSection.model_fields.items() if field.exclude_if is not None}
    assert {"rules", "reward_model", "reward_weight", "temperature", "top_p", "allow_code"} <= later
    assert not later & set(load_stage("learn", recipe).settings(recipe)["grpo"]) and not later & set(recipe.decides()["post"][0])
    assert {"grader_weight", "clip_eps_high"} <= set(recipe.decides()["post"][0])
    ruled = load_recipe([str(make_tiny(tmp_path)[0])], [posted('rules = [{rule = "ended"}],')])
    assert load_stage("learn", ruled).settings(ruled)["grpo"]["rules"][0]["rule"] == "ended"
    assert load_recipe_text(recipe_toml(ruled), tmp_path).post == ruled.post


def load_recipe_text(text: str, directory: Path) -> Recipe:
    path = directory / "written.toml"
    path.write_text(text)
    return load_recipe([str(path)])
