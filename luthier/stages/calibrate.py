"""Verb plan --calibrate: how fast the kinds of work of a training step go here. In: this machine. Out: `calibration` in hardware.json.

Products and attention's products are timed alone, forward and backward; all that is no product is what is left of real steps of a small
decoder. About a minute, most of it one compilation; the machine should have nothing else to do.
"""

from __future__ import annotations

import datetime
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from luthier.config.load import read_settings, resolve_model
from luthier.config.schema import Recipe
from luthier.errors import HardwareError, StorageError
from luthier.model.precision import DTYPES
from luthier.plan.calibration import Calibration
from luthier.plan.hardware import known_measurements
from luthier.plan.memory import QUERY_BLOCK
from luthier.plan.steps import elementwise_bytes_per_token, step_parts
from luthier.runs.files import make_directory, write_json
from luthier.runs.progress import Progress, duration, progress_for
from luthier.runs.registry import runs_root
from luthier.stages.bench import Subject
from luthier.stages.doctor import examine
from luthier.stages.output import print_json, print_rows
from luthier.train.device import resolve_compute

WIDTHS, TOKENS = (64, 192, 384, 768), 2048
"""Narrower sides of the weights that are tried, the wider one being twice that; and tokens that go through them."""
HEADS, HEAD_DIM, KEYS = (4, 64), 64, 512
"""Matrices of attention in one call, few and many; the width of a head; positions that a block of queries sees."""
_SMALL: dict[str, Any] = {
    "model": {"d_model": 128, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "d_ff": 512},
    "tokenizer": {"vocab_size": 2048},
    "pack": {"seq_len": 512},
    "pretrain": {"steps": 1000, "global_batch_tokens": 4096, "micro_batch_size": 8, "device": "cpu"},
}
STEPS = 9


def calibrate(progress: Progress) -> dict[str, Any]:
    """Measure the processor; a GPU is planned by its rate, and corrected by finished runs.

    Units: FLOP/s, bytes/s, seconds
    """
    compute = resolve_compute(Recipe.model_validate(_SMALL).pretrain, 0)
    torch.set_num_threads(compute.threads)
    kinds = list(dict.fromkeys((compute.precision, "fp32")))
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": metadata.version("torch"),
        "threads": compute.threads,
        "bandwidth": _bandwidth(),
        "products": {kind: [[width, _product_rate(width, DTYPES[kind])] for width in WIDTHS] for kind in kinds},
        "attention": {kind: _attention(DTYPES[kind]) for kind in kinds},
        "elementwise": {},
    }
    for how in ("off", "on"):
        try:
            compiled = "compiled" if how == "on" else "uncompiled"
            found["elementwise"][compiled] = _elementwise(found, compute.precision, how, progress)
        except HardwareError as error:  # no compiler
            progress.say(f"calibrate: {error.message}")
    return found


def _median_seconds(work: Callable[[], object], seconds: float = 0.25) -> float:
    """The median of repeated runs; the first is not counted."""
    work()
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 5:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _bandwidth() -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.ones(2**26)  # 256 MiB
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median_seconds(lambda: target.copy_(source))


def _product_rate(narrow: int, dtype: torch.dtype) -> float:
    """Rate of a linear map's three products: its result, and the gradients of its input and of its weight."""
    x, weight, gradient = (_drawn(shape, dtype) for shape in ((TOKENS, narrow), (2 * narrow, narrow), (TOKENS, 2 * narrow)))

    def work() -> None:
        x @ weight.t(), gradient @ weight, gradient.t() @ x

    return 3 * 2.0 * TOKENS * narrow * 2 * narrow / _median_seconds(work)


def _attention(dtype: torch.dtype) -> tuple[float, float]:
    """Rate of scores, weighted sums and their four gradients, and what a call costs besides: two numbers of matrices tell both."""
    seconds: list[float] = []
    for matrices in HEADS:
        q, k, v = (_drawn((matrices, length, HEAD_DIM), dtype) for length in (QUERY_BLOCK, KEYS, KEYS))
        weights = _drawn((matrices, QUERY_BLOCK, KEYS), dtype)

        def work(q: torch.Tensor = q, k: torch.Tensor = k, v: torch.Tensor = v, weights: torch.Tensor = weights) -> None:
            q @ k.mT, weights @ v, q @ v.mT, weights.mT @ q, weights @ k, weights.mT @ q

        seconds.append(_median_seconds(work) / 6)
    flops = [2.0 * matrices * QUERY_BLOCK * KEYS * HEAD_DIM for matrices in HEADS]
    rate = min((flops[1] - flops[0]) / max(seconds[1] - seconds[0], 1e-9), 1.5 * flops[1] / seconds[1])
    return rate, max(0.0, seconds[0] - flops[0] / rate)


def _drawn(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _elementwise(found: dict[str, Any], precision: str, compile: str, progress: Progress) -> float:
    """Bytes kept over the time that is left of a small decoder's step when its products are taken away."""
    pretrain = {**_SMALL["pretrain"], "precision": precision, "compile": compile}
    recipe = Recipe.model_validate({**_SMALL, "pretrain": pretrain})
    with tempfile.TemporaryDirectory() as folder, closing(Subject.of(recipe, Path(folder), progress)) as subject:
        subject.loop(3)
        taken = statistics.median(subject.loop(STEPS))
        rows = subject.loader.rows_per_step
    one = Calibration.read({**found, "elementwise": {"compiled": 1.0, "uncompiled": 1.0}})
    assert one is not None, "everything but that is measured"
    config, seq_len = resolve_model(recipe), recipe.pack.seq_len
    parts = step_parts(config, recipe.optim, one, rows, rows, seq_len, precision, compiled=compile == "on")
    rest = taken - sum(seconds for part, seconds in parts.items() if part != "elementwise")
    return rows * seq_len * elementwise_bytes_per_token(config, seq_len, precision) / max(rest, 0.1 * taken)


def calibrate_verb(arguments: Sequence[str], *, alone: bool, as_json: bool) -> None:
    """Measure the machine and remember it for every later plan; what runs said about an earlier calibration is forgotten.

    `arguments` say where runs are kept. Unless it is `alone` the result is a plan's, and this is only said.
    """
    given = read_settings([word for word in arguments if "=" not in word], [word for word in arguments if "=" in word])
    progress, started = progress_for(), time.monotonic()
    progress.say("calibrate: about a minute; leave the machine alone meanwhile")
    path = runs_root(given.get("runs", {}).get("root")) / "hardware.json"
    runs = known_measurements(path).get("runs")
    kept = {key: ratios for key, ratios in runs.items() if not str(key).endswith("calibrated")} if isinstance(runs, dict) else {}
    found = {**examine(), "calibration": calibrate(progress), "runs": kept}
    try:
        make_directory(path.parent)
        write_json(path, found)
    except StorageError as error:
        print(f"warning: {error}", file=sys.stderr)
    if not alone:
        progress.say(f"calibrated in {duration(time.monotonic() - started)}")
    elif as_json:
        print_json(found)
    else:
        print_rows([*_plain(found["calibration"]), ("took", duration(time.monotonic() - started))])


def _plain(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (f"products, {kind}", ", ".join(f"{rate / 1e9:,.0f}" for _, rate in points) + f" GFLOP/s at widths {_widths(points)}")
        for kind, points in found["products"].items()
    ]
    for kind, (rate, call) in found["attention"].items():
        rows.append((f"attention, {kind}", f"{rate / 1e9:,.0f} GFLOP/s and {call * 1e6:.0f} us a call"))
    rows += [(f"elementwise, {how}", f"{rate / 1e9:.2f} GB/s of what is kept") for how, rate in found["elementwise"].items()]
    return [*rows, ("memory", f"{found['bandwidth'] / 1e9:.0f} GB/s")]


def _widths(points: list[list[float]]) -> str:
    return ", ".join(f"{width:.0f}" for width, _ in points)
