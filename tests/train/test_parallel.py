import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from luthier.pack.loader import Loader
from luthier.train.loop import share_of
from luthier.train.parallel import ALONE, World, joined
from tests.train.small_training import Rows, train, trainee

STEPS = 5


def start(size: int, *arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.ranks", str(STEPS), *arguments]
    return [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(size)
    ]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_world_size_reads_the_same_tokens_at_the_same_step_and_learns_the_same(size: int) -> None:
    """A7."""
    ranks = [(child.communicate(timeout=120), child.returncode) for child in start(size)]
    assert all(code == 0 for _, code in ranks), [told[1] for told, _ in ranks]
    results = [json.loads(told[0]) for told, _ in ranks]
    loader = Loader(Rows(), 8, seed=1)
    for step in range(STEPS):
        together = [token for result in results for token in result["tokens"][step]]
        assert together == loader.batch(step).inputs.flatten().tolist()
    who = trainee("adamw")
    alone = train(who, STEPS)
    for result in results:
        assert result["losses"] == pytest.approx(alone, abs=1e-6)
        assert result["told"] == {"from": 0} and result["x"] == [0.0, 0.0, 0.0]
    assert len({result["sha256"] for result in results}) == 1


def test_a_killed_rank_ends_the_others_with_a_sentence() -> None:
    """A11."""
    survivor, victim = start(2, "3")
    assert victim.wait(timeout=120) == -9
    _, said = survivor.communicate(timeout=60)
    victim.communicate()
    assert survivor.returncode == 2 and "rank 0 of 2: rank 1 is gone" in said and "Traceback" not in said


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
    with joined("cpu") as world:
        assert world == ALONE and world.leads
        assert world.add_up(trainee().model, [1.5, 2.0]) == [1.5, 2.0] and world.share({}, {"a": 1}) == {"a": 1}
