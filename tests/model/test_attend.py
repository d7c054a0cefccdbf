import math
import warnings

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from luthier.errors import ConfigError, HardwareError
from luthier.model import flex
from luthier.model.attend import BACKENDS, AttentionMask, alibi_slopes, attend, blocked, by_rule, naive
from luthier.model.decoder import Decoder, initialise
from tests.model.attention_cases import Case, assert_equal, draw, draw_cases, expected, results
from tests.small import small_shape

CASES = draw_cases(30, seed=1)


@pytest.mark.parametrize("case", [Case(2, 4, 2, 9, 9, 8), Case(1, 2, 1, 5, 12, 8, 4, True, True), Case(2, 2, 2, 7, 7, 8, 1)], ids=str)
def test_naive_is_the_definition(case: Case) -> None:
    """One number at a time, without a tensor."""
    (q, k, v), mask, _ = draw(case, torch.float64)
    out = naive(q, k, v, mask)
    for b in range(case.batch):
        for h in range(case.heads):
            for i in range(case.queries):
                at = case.keys - case.queries + i
                seen = [j for j in range(at + 1) if case.window is None or at - j < case.window]
                if mask.doc_ids is not None:
                    seen = [j for j in seen if mask.doc_ids[b, j] == mask.doc_ids[b, at]]
                slope = 0.0 if mask.slopes is None else mask.slopes[h].item()
                g = h // case.groups
                scores = [(q[b, h, i] @ k[b, g, j]).item() / math.sqrt(case.width) + slope * (j - at) for j in seen]
                weights = [math.exp(s - max(scores)) for s in scores]
                mean = sum(w * v[b, g, j] for w, j in zip(weights, seen, strict=True)) / sum(weights)
                torch.testing.assert_close(out[b, h, i], mean)


@pytest.mark.parametrize("backend", ["blocked", "sdpa", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_back_ends_equal_the_definition_forward_and_backward(backend: str, dtype: torch.dtype) -> None:
    for case in CASES:
        inputs, mask, d_out = draw(case, dtype)
        assert_equal(results(inputs, mask, d_out, backend), expected(inputs, mask, d_out), 5e-6 if dtype == torch.float32 else 3e-2)


def test_flex_equals_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled, so that it takes no minutes; on a CPU it has no backward pass."""
    monkeypatch.setattr(flex, "_functions", lambda: (torch_flex.flex_attention, torch_flex.create_block_mask))
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    for case in CASES:
        inputs, mask, d_out = draw(case, torch.float32)
        assert_equal([attend(*inputs, mask, "flex")], expected(inputs, mask, d_out), 5e-6)
    with pytest.raises(HardwareError, match="cannot train on cpu"):
        results(inputs, mask, d_out, "flex")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["flex", "blocked"])
def test_back_ends_compile_with_the_model(backend: str) -> None:
    model = Decoder(small_shape(head_dim=16, d_model=64), attention=backend)
    initialise(model, 1)
    ids = torch.randint(0, 97, (2, 150), generator=torch.Generator().manual_seed(2))
    doc_ids = (torch.arange(150) // 40).expand(2, 150)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it compiles
        found = torch.compile(model)(ids, doc_ids=doc_ids)
        model.attention = "naive"
        torch.testing.assert_close(found, model(ids, doc_ids=doc_ids), atol=1e-5, rtol=1e-4)


def test_auto_trains_in_blocks_on_a_cpu_and_infers_by_pytorch() -> None:
    q, k = torch.zeros(1, 2, 5, 8, requires_grad=True), torch.zeros(1, 2, 5, 8)
    plain, documents = AttentionMask(), AttentionMask(doc_ids=torch.zeros(1, 5))
    assert by_rule(q, k, k, plain) == "blocked"
    assert by_rule(q[:, :, :1], k, k, plain) == "sdpa"
    with torch.inference_mode():
        assert by_rule(q, k, k, plain) == "sdpa"
        assert by_rule(q, k, k, documents) == "blocked"


def test_what_cannot_be_done_is_said() -> None:
    x, wide = torch.zeros(1, 2, 5, 8), torch.zeros(1, 4, 6, 8)
    with pytest.raises(ConfigError, match="no attention `flash`") as error:
        attend(x, x, x, backend="flash")
    assert all(name in str(error.value) for name in BACKENDS)
    with pytest.raises(ValueError, match="do not go with"):
        attend(wide, x, x)
    with pytest.raises(ValueError, match="window"):
        AttentionMask(window=0)
    with pytest.raises(HardwareError, match="attention=triton cannot run on cpu"):
        attend(x, x, x, backend="triton")


def test_a_window_keeps_what_is_outside_out() -> None:
    (q, k, v), _, _ = draw(Case(1, 2, 1, 200, 200, 8), torch.float32)
    for backend in ("naive", "blocked", "sdpa"):
        out = attend(q, k, v, AttentionMask(window=20), backend)
        changed = v.clone()
        changed[:, :, :100] = 1e6
        torch.testing.assert_close(attend(q, k, changed, AttentionMask(window=20), backend)[:, :, 119:], out[:, :, 119:])
        assert not torch.allclose(attend(q, k, changed, AttentionMask(window=20), backend)[:, :, 118], out[:, :, 118])


def test_blocks_of_a_window_cost_no_more_than_the_window() -> None:
    q = torch.zeros(1, 1, 1024, 8)
    seen: list[int] = []

    class Looking(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if "softmax" in str(func):
                seen.append(result.shape[-1])
            return result

    with Looking():
        blocked(q, q, q, AttentionMask(window=64))
    assert max(seen) == 128 + 63 and len(seen) == 8


def test_alibi_slopes_are_the_papers() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(16).tolist() == pytest.approx([2.0 ** (-i / 2) for i in range(1, 17)])
    assert alibi_slopes(12).tolist() == pytest.approx([2.0**-i for i in range(1, 9)] + [2.0 ** (-i / 2) for i in (1, 3, 5, 7)])
