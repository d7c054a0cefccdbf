import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from luthier.model.flash import PIECE, document_bounds, tiles

ROOT = Path(__file__).resolve().parents[2]
without_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def run_the_kernels(**environment: str) -> None:
    """Run `interpreted_flash.py` in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-W", "default", "tests/model/interpreted_flash.py"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@without_triton
def test_the_kernels_by_tritons_interpreter() -> None:
    run_the_kernels(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@without_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_kernels_compiled_on_a_gpu() -> None:
    run_the_kernels(TRITON_INTERPRET="0")


@pytest.mark.parametrize("rising", [True, False])
def test_tiles_that_documents_leave_out_hold_nothing_visible(rising: bool) -> None:
    chance = random.Random(3)
    left_out = 0
    for _ in range(40):
        keys = chance.randint(1, 500)
        queries, q_tile, k_tile = chance.randint(1, keys), chance.choice([16, 32, 64, 128]), chance.choice([16, 32, 64, 128])
        ids = (torch.rand(2, keys, generator=torch.Generator().manual_seed(keys)) < 0.02).int().cumsum(1)
        ids = ids if rising else ids % 4
        first_key, last_query = document_bounds(ids, queries, q_tile, k_tile)
        same = ids[:, keys - queries :, None] == ids[:, None, :]  # (B, T, S)
        same &= torch.arange(keys - queries, keys)[:, None] >= torch.arange(keys)
        b, i, j = same.nonzero().T
        assert (first_key[b, i // q_tile] <= j).all() and (i < last_query[b, j // k_tile]).all()
        left_out += int((first_key >= PIECE).sum() + (last_query < queries).sum())
    assert left_out > (200 if rising else 0)


@pytest.mark.parametrize("head_dim", [16, 64, 96, 128, 256])
@pytest.mark.parametrize("bytes_per_value", [2, 4])
@pytest.mark.parametrize("roomy", [True, False])
def test_tiles_suit_triton(head_dim: int, bytes_per_value: int, roomy: bool) -> None:
    """Sides are powers of two from 16; both kernels over queries share what documents' bounds are made for."""
    chosen = tiles(head_dim, bytes_per_value, roomy)
    for tile in (chosen.forward, chosen.query_gradient, chosen.key_gradient):
        assert all(side >= 16 and side & (side - 1) == 0 for side in (tile.m, tile.n))
    assert chosen.forward.m == chosen.query_gradient.m


@without_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [86, 90])
def test_the_kernels_compile_for_gpus_that_are_not_here(capability: int) -> None:
    """And need no more shared memory than a block gets there."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.model.compiled_flash", str(capability)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    needed = [int(line) for line in done.stdout.split()]
    assert len(needed) == 27 and max(needed) <= {86: 99, 90: 227}[capability] * 1024
