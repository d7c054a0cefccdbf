"""Several processes train as one does. One process forks all ranks of all plays, so that torch is imported once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from luthier.errors import HardwareError
from luthier.model.weights import weights_sha256
from luthier.pack.loader import Loader
from luthier.train.device import take_device
from luthier.train.loop import Course, Every, fit, share_of
from luthier.train.objective import NextToken
from luthier.train.parallel import ALONE, World, joined
from luthier.train.stopping import StopRequest
from tests.ranks import Part, perform
from tests.train.ranks import STEPS
from tests.train.small_training import Rows, trainee

PLAYS: dict[str, dict[str, Any]] = {
    **{f"{size} ranks": {"size": size, "does": "learn"} for size in (1, 2, 3, 4)},
    "more ranks than rows": {"size": 4, "does": "learn", "rows_per_step": 3},
    "one bucket": {"size": 2, "does": "differ", "bucket_bytes": 2**20},
    "many buckets": {"size": 2, "does": "differ", "bucket_bytes": 3000},
    "unused": {"size": 2, "does": "unused"},
    "share": {"size": 2, "does": "share"},
    "twice": {"size": 2, "does": "twice"},
    "restart": {"size": 2, "does": "restart"},
    "killed": {"size": 2, "does": "learn", "fault": "kill"},
    "killed of three": {"size": 3, "does": "learn", "fault": "kill"},
    "failed": {"size": 2, "does": "learn", "fault": "raise"},
    "hangs": {"size": 2, "does": "learn", "fault": "stop", "minutes": 2 / 60, "longest": 0.0},
    "absent": {"size": 2, "does": "absent"},
}


@pytest.fixture(scope="module")
def played() -> dict[str, list[Part]]:
    return dict(zip(PLAYS, perform("tests.train.ranks", list(PLAYS.values())), strict=True))


def results(parts: list[Part]) -> list[Any]:
    assert all(part.code == 0 and not part.said for part in parts), parts
    return [part.result for part in parts]


def alone(rows_per_step: int = 8, micro: int = 8) -> tuple[list[float], dict[str, torch.Tensor]]:
    who, losses = trainee("adamw", micro), list[float]()
    course = Course(STEPS, lambda step: 1.0 - step / 30, 1.0, "cpu")
    recording = Every(1, lambda moment: losses.append(moment.loss))
    fit(who, Loader(Rows(), rows_per_step, seed=1), NextToken(), course, [recording], StopRequest())
    return losses, who.model.state_dict()


@pytest.mark.parametrize(("play", "rows"), [("1 ranks", 8), ("2 ranks", 8), ("3 ranks", 8), ("4 ranks", 8), ("more ranks than rows", 3)])
def test_every_world_size_reads_the_same_tokens_at_the_same_step_and_learns_the_same(
    played: dict[str, list[Part]], play: str, rows: int
) -> None:
    """A7."""
    ranks, loader = results(played[play]), Loader(Rows(), rows, seed=1)
    for step in range(STEPS):
        assert [token for rank in ranks for token in rank["tokens"][step]] == loader.batch(step).inputs.flatten().tolist()
    losses, _ = alone(rows)
    for rank in ranks:
        assert rank["losses"] == pytest.approx(losses, abs=1e-6)
    assert len({rank["sha256"] for rank in ranks}) == 1, "all ranks have the same weights, bit by bit"


def test_two_ranks_have_the_bits_of_one_process_that_takes_half_a_batch_at_a_time(played: dict[str, list[Part]]) -> None:
    """A7."""
    assert results(played["2 ranks"])[0]["sha256"] == weights_sha256(alone(micro=4)[1])


@pytest.mark.parametrize("play", ["one bucket", "many buckets"])
def test_gradients_of_two_ranks_are_those_of_one(played: dict[str, list[Part]], play: str) -> None:
    """A7."""
    for rank in results(played[play]):
        assert rank["loss"] < 1e-6 and rank["gradient"] < 1e-6


def test_a_missing_gradient_counts_as_zeros(played: dict[str, list[Part]]) -> None:
    for rank in results(played["unused"]):
        assert rank == {"gradients": [[1.0] * 6, [2.0] * 6, [0.0] * 6], "sums": [1.5, 4.0]}


def test_all_get_what_the_leading_rank_has(played: dict[str, list[Part]]) -> None:
    for rank in results(played["share"]):
        assert rank["tensors"] == {"a": [0], "b": [[0.0, 1.0], [2.0, 3.0]], "empty": []}
        assert rank["value"] == {"rank": 0, "text": "grün"} and rank["nothing"] is None


def test_ranks_meet_again_for_the_next_stage(played: dict[str, list[Part]]) -> None:
    assert results(played["twice"]) == [["pretrain 0", "sft 0"]] * 2


def test_a_restart_is_not_misled_by_what_dead_ranks_wrote(played: dict[str, list[Part]]) -> None:
    """A11."""
    assert results(played["restart"]) == [["0 0", "1 0", "2 0"]] * 2


def test_a_killed_rank_ends_the_others_with_a_sentence(played: dict[str, list[Part]]) -> None:
    """A11."""
    survivor, victim = played["killed"]
    assert victim.code == -9 and survivor.code == 1 and survivor.seconds - victim.seconds < 60
    first, *rest = survivor.said.splitlines()
    assert first.startswith("rank 0 of 2: rank 1 is gone or hangs: ") and "[/" not in first and "run the same command again" in rest[0]
    survivors = [played["killed of three"][rank] for rank in (0, 2)]
    assert all(
        part.code == 1 and f"rank {rank} of 3: another rank is gone" in part.said for part, rank in zip(survivors, (0, 2), strict=True)
    )


def test_a_failed_rank_says_why_and_the_others_that_it_is_gone(played: dict[str, list[Part]]) -> None:
    """A11."""
    other, failed = played["failed"]
    assert "rank 0 of 2: rank 1 is gone" in other.said and other.code == 1
    assert failed.said.splitlines()[0] == "this rank's own trouble" and failed.code == 2


def test_a_rank_that_hangs_or_never_comes_is_not_waited_for_forever(played: dict[str, list[Part]]) -> None:
    """A11."""
    for play in ("hangs", "absent"):
        waited = played[play][0]
        assert waited.code == 1 and "rank 0 of 2: rank 1 is gone or hangs: " in waited.said and "Traceback" not in waited.said


def test_shares_are_whole_and_even() -> None:
    """A7."""
    for size in (1, 2, 3, 8, 11):
        shares = [World(rank, size).rows(np.arange(8)) for rank in range(size)]
        assert np.concatenate(shares).tolist() == list(range(8))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    batch = Loader(Rows(), 8, seed=1).batch(0)
    assert share_of(batch, ALONE) is batch
    assert np.array_equal(share_of(batch, World(1, 2)).targets, batch.targets[4:])


def test_one_process_needs_no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    take_device("cuda")
    with joined("cpu") as world:
        assert world == ALONE and world.leads
        assert world.add_up(trainee().model, [1.5, 2.0]) == [1.5, 2.0] and world.share({}, {"a": 1}) == {"a": 1}


def test_each_rank_has_a_gpu_of_its_own_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        take_device("cuda")
    assert taken == [0, 1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(HardwareError, match=r"rank 2 on this machine needs a CUDA device of its own, there are 2\n.*--nproc-per-node 2"):
        take_device("cuda")
    take_device("cpu")
