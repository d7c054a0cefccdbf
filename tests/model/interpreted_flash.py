"""The flash kernels on random shapes: by Triton's interpreter on a CPU, or compiled on a GPU; `test_flash.py` runs this file.

Triton looks at `TRITON_INTERPRET` once, when it is imported, so these tests have a process of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from luthier.model import flash
from luthier.model.decoder import Decoder, initialise
from tests.model.attention_cases import Case, assert_equal, draw, draw_cases, expected, results
from tests.small import small_shape

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
CASES = draw_cases(30, seed=2, most_heads=8 if INTERPRETED else 16)
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LARGE = [
    Case(2, 8, 4, 1000, 1000, 64),
    Case(1, 8, 2, 2049, 2049, 128, window=300),
    Case(2, 4, 1, 777, 1500, 96, alibi=True),
    Case(2, 16, 8, 1111, 1111, 64, documents=True),
    Case(1, 4, 2, 600, 600, 256, 200, True, True),
]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill every new buffer with NaN, so that a place that nobody writes is seen."""
    torch.use_deterministic_algorithms(True, warn_only=not INTERPRETED)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.zeros(2, device=DEVICE).new_empty((3, 5)).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("i", range(30))
def test_kernels_equal_the_definition(i: int) -> None:
    dtypes = [(torch.float32, torch.bfloat16, torch.float16, torch.float16)[i % 4]] if INTERPRETED else list(TOLERANCE)
    for dtype in dtypes:
        inputs, mask, d_out = draw(CASES[i], dtype, DEVICE)
        assert_equal(results(inputs, mask, d_out, "triton"), expected(inputs, mask, d_out), TOLERANCE[dtype])


@pytest.mark.skipif(INTERPRETED, reason="too long for the interpreter")
@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_kernels_equal_the_definition_at_length(case: Case, dtype: torch.dtype) -> None:
    inputs, mask, d_out = draw(case, dtype, DEVICE)
    assert_equal(results(inputs, mask, d_out, "triton"), expected(inputs, mask, d_out), TOLERANCE[dtype])


def test_nothing_is_written_beside_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results lie between numbers that must not change."""
    buffers: list[Tensor] = []

    def guarded(x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        buffers.append(torch.full((x.numel() + 20_000,), 7.0, dtype=x.dtype, device=x.device))
        return buffers[-1][10_000:-10_000].view(batch, length, heads, width).transpose(1, 2)

    monkeypatch.setattr(flash, "_heads_like", guarded)
    for case in (Case(2, 2, 2, 70, 70, 16), Case(1, 2, 1, 33, 131, 24, 20, True, True)):
        inputs, mask, d_out = draw(case, torch.float32, DEVICE)
        assert_equal(results(inputs, mask, d_out, "triton"), expected(inputs, mask, d_out), 5e-6)
    assert len(buffers) == 8
    assert all((buffer[:10_000] == 7).all() and (buffer[-10_000:] == 7).all() for buffer in buffers)


def test_the_same_inputs_give_the_same_bits() -> None:
    inputs, mask, d_out = draw(Case(1, 8, 8, 150, 150, 16) if INTERPRETED else LARGE[3], torch.float16, DEVICE)
    for a, b in zip(results(inputs, mask, d_out, "triton"), results(inputs, mask, d_out, "triton"), strict=True):
        assert torch.equal(a, b)


def test_any_layout_in_memory() -> None:
    (q, k, v), mask, d_out = draw(Case(2, 2, 1, 40, 40, 16), torch.float32, DEVICE)
    right = expected([q, k, v], mask, d_out)
    turned = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v, d_out)]
    joined = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v, d_out)]
    for a, b, c, d in (turned, joined):
        assert_equal(results([a, b, c], mask, d, "triton"), right, 5e-6)


def test_the_operators_keep_torchs_rules() -> None:
    (q, k, v), mask, _ = draw(Case(1, 2, 2, 33, 33, 16, documents=True), torch.float32, DEVICE)
    assert mask.doc_ids is not None
    bounds = flash.document_bounds(mask.doc_ids, 33, 32, 32)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(flash._forward, (*leaves, mask.doc_ids.int(), None, *bounds, 0))


def test_a_compiled_model_trains_as_an_uncompiled_one() -> None:
    ids = torch.randint(0, 97, (2, 70), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    doc_ids = (torch.arange(70, device=DEVICE) // 20).expand(2, 70)
    found: dict[str, list[Tensor]] = {}
    for backend in ("naive", "triton", "compiled"):
        model = Decoder(small_shape(n_layers=1), attention=backend.replace("compiled", "triton"))
        initialise(model, 1)
        model.to(DEVICE)
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if backend == "compiled" else model
        out = run(ids, doc_ids=doc_ids)
        out.square().sum().backward()
        found[backend] = [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    for a, b, c in zip(*found.values(), strict=True):
        torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(c, b, atol=1e-5, rtol=1e-5)
