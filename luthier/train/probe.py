"""Whether compiled code works here, tried where it can do no harm. In: a device, a type. Out: nothing, or the reason. Next: stages.

A compiler or kernel that is installed may still die when it is used, or give wrong numbers. A small decoder is therefore compiled and
trained for one step in a process of its own, and compared with the same step uncompiled.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import torch

from luthier.config.model import ModelConfig
from luthier.model.decoder import Decoder, initialise
from luthier.model.precision import DTYPES, TOLERANCE
from luthier.train.objective import chunk_loss

_SHAPE = {
    "d_model": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "d_ff": 64, "vocab_size": 64, "max_seq_len": 32,
    "rope_theta": 10_000.0, "norm_eps": 1e-5, "tie_embeddings": True, "init_std": 0.2,
}  # fmt: skip


def why_not_compile(device: str, precision: str, seconds: float = 300.0, command: Sequence[str] | None = None) -> str | None:
    """Try a compiled step in a process of its own; return what went wrong, or `None`."""
    try:
        done = subprocess.run(
            command or [sys.executable, "-m", "luthier.train.probe", device, precision],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {seconds:.0f} s"
    except OSError as error:
        return f"it could not be started: {error}"
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"it died of signal {-done.returncode}" if done.returncode < 0 else last[:300]


def largest_difference(device: str, precision: str) -> float:
    """Compile a step and compare its results with the uncompiled ones; as a share of the largest value.

    On a GPU the step is a small decoder's, forward and backward; on a CPU, where kernels are plain C++, the head's loss is enough.
    """
    dtype = DTYPES[precision]
    results = [_head_step(dtype, compiled) if device == "cpu" else _decoder_step(device, dtype, compiled) for compiled in (False, True)]
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(*results, strict=True))


def _head_step(dtype: torch.dtype, compiled: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(64, 97, generator=generator).to(dtype)
    targets = torch.randint(97, (64,), generator=generator)
    loss, gradient = (torch.compile(chunk_loss) if compiled else chunk_loss)(logits, targets, 1 / 64)
    return [loss.float(), gradient.float()]


def _decoder_step(device: str, dtype: torch.dtype, compiled: bool) -> list[torch.Tensor]:
    model = Decoder(ModelConfig.model_validate(_SHAPE), dtype)
    initialise(model, 1)
    model.to(device)
    inputs = torch.arange(64, device=device).reshape(2, 32) % 61  # (B, T)
    hidden = (torch.compile(model) if compiled else model)(inputs)  # (B, T, D)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)).to(device)
    (hidden.float() * weights).sum().backward()
    return [hidden.detach().float(), *(p.grad.float() for p in model.parameters() if p.grad is not None)]


def _main(device: str, precision: str) -> None:
    difference = largest_difference(device, precision)
    if not difference <= TOLERANCE[precision]:
        sys.exit(f"its results differ from uncompiled ones by {difference:.2g} of the largest value, {TOLERANCE[precision]:g} is allowed")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
