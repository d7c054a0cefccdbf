"""A batch that grows: every row in its turn, the same bits after a stop, the same tokens by any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.ranks import perform
from tests.stages.conftest import make_tiny
from tests.stages.test_parallel_run import OPTIONS, require_near, together

GROWTH = ["pretrain.tokens=6144", "pretrain.batch_warmup_start=64", "pretrain.batch_warmup_tokens=768"]
SIZES = [64] * 6 + [128] * 3 + [256] * 21


def test_a_growing_batch_is_stopped_shared_and_counted_like_any_other(tmp_path: Path) -> None:
    recipe = [*make_tiny(tmp_path), *OPTIONS, *GROWTH]

    def play(size: int, root: str, recipe: list[str] = recipe, **more: Any) -> dict[str, Any]:
        return {"size": size, "arguments": ["pretrain", *recipe, f"runs.root={tmp_path / root}"], "root": str(tmp_path / root), **more}

    plain = [*recipe[: -len(GROWTH)], GROWTH[0]]
    plays = [
        play(1, "one"),
        play(1, "stopped", stop_after=8),
        play(1, "stopped"),
        play(2, "two"),
        play(1, "plain", plain),
    ]
    one, *stopped, two, even = perform("tests.stages.ranks", plays)
    assert one[0].result["code"] == 0, one[0].said
    assert [parts[0].result["code"] for parts in stopped] == [130, 0] and {part.result["code"] for part in two} == {0}
    steps = together(one)
    assert [len(tokens) for tokens in steps] == SIZES
    assert [token for tokens in steps for token in tokens] == [token for tokens in together(even) for token in tokens]
    assert [tokens for parts in stopped for tokens in together(parts)] == steps == together(two)
    require_near(tmp_path / "one", tmp_path / "two", "pretrain")

    last = "store/pretrain/*/checkpoints/step_000030/model.safetensors"
    weights = {root: next((tmp_path / root).glob(last)).read_bytes() for root in ("one", "stopped")}
    assert weights["one"] == weights["stopped"]
    lines = [json.loads(line) for line in next((tmp_path / "stopped").glob("store/pretrain/*/metrics.jsonl")).read_text().splitlines()]
    assert [line["tokens_seen"] for line in lines if "train/loss" in line] == [sum(SIZES[: step + 1]) for step in range(30)]
