import json
import math
import sys
from dataclasses import asdict, replace

import pytest
import torch

from luthier.model import choose
from luthier.model.choose import Trial, fastest, largest_difference, try_back_end
from tests.small import small_shape

TRIAL = Trial(4, 2, 16, 40, "fp32", True, "cpu")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "died of signal 11"),
        ("raise RuntimeError('no kernel image is available')", "no kernel image is available"),
        ("import time; time.sleep(60)", "took more than 1 s"),
    ],
)
def test_a_back_end_that_dies_is_found_in_a_process_of_its_own(code: str, words: str) -> None:
    seconds = 1.0 if "sleep" in code else 60.0
    assert words in str(try_back_end("sdpa", TRIAL, seconds, [sys.executable, "-c", code]))
    assert "could not be started" in str(try_back_end("sdpa", TRIAL, 60.0, ["/nowhere/python"]))


def test_a_back_end_is_tried_and_timed() -> None:
    found = try_back_end("blocked", TRIAL)
    assert isinstance(found, float) and 0 < found < 60_000
    assert "cannot run on cpu" in str(try_back_end("triton", TRIAL)) or "set attention=auto" in str(try_back_end("triton", TRIAL))


def test_wrong_numbers_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert largest_difference("blocked", TRIAL) < 1e-5
    assert largest_difference("sdpa", replace(TRIAL, precision="bf16", documents=False)) < 4e-2
    right, scales = choose.attend, [1.5, math.nan]

    def wrong(q, k, v, mask, backend):
        out = right(q, k, v, mask, backend)
        return out if backend == "naive" else torch.cat([out[:, :, :-1], out[:, :, -1:] * scales.pop()], dim=2)

    monkeypatch.setattr(choose, "attend", wrong)
    while scales:
        assert not largest_difference("blocked", TRIAL) <= choose.TOLERANCE["fp32"]


def test_every_pattern_of_the_layers_is_tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A back end that is right for plain layers only is not chosen for a model that has others."""
    config = small_shape(n_layers=5, windows=(0, 200), positions=("none", "none", "none", "alibi"))
    trial = Trial.of(config, 300, "fp32", True, "cpu")
    assert trial.patterns == ((None, False, 3), (200, False, 1), (200, True, 1))
    assert largest_difference("blocked", trial) < 1e-5
    monkeypatch.setattr(choose, "TIMED_TOKENS", 300)
    choose._main(json.dumps({"backend": "blocked", **asdict(trial)}))
    assert float(capsys.readouterr().out) > 0
    right = choose.attend
    for ignored in ({"window": None}, {"slopes": None}, {"doc_ids": None}):

        def wrong(q, k, v, mask, backend, ignored=ignored):
            return right(q, k, v, mask if backend == "naive" else replace(mask, **ignored), backend)

        monkeypatch.setattr(choose, "attend", wrong)
        assert largest_difference("blocked", trial) > choose.TOLERANCE["fp32"]
    assert largest_difference("blocked", replace(trial, documents=False, patterns=((None, False, 1),))) < 1e-5


def test_the_fastest_is_taken_and_of_two_alike_the_first() -> None:
    assert fastest({"sdpa": 2.0, "triton": 1.0, "flex": 3.0}) == "triton"
    assert fastest({"sdpa": 1.04, "triton": 1.0, "flex": 0.999}) == "sdpa"
    assert fastest({"sdpa": "it died", "triton": "it differs", "flex": 3.0}) == "flex"
    assert fastest({"sdpa": "it died"}) is None
