"""The planner against this machine: memory and time of a step, predicted after calibration and measured, for nine trainings on a CPU.

    python benchmarks/planning.py [--only A B D] [--rows 1 4 16] [--uncompiled | --cold] [--seconds 560] [--json]

LLM Maker A's, B's and D's dimensions, rows of 1,024 tokens, bf16 where the processor has units for it, AdamW. Each training is a process of
its own that takes steps, saves a checkpoint, validates, and says the peak of its memory. What torch compiled is kept from one time to the
next (the first time takes a minute longer for each training; --cold compiles anew): a process that compiles takes more memory, and the
prediction is with its compiler only where it did. After --seconds no new training begins.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import ROOT, cache_folder

SHAPES: dict[str, tuple[dict[str, int], int, tuple[int, ...]]] = {
    "A": ({"d_model": 256, "n_layers": 8, "n_heads": 4, "n_kv_heads": 4, "d_ff": 960}, 8192, (1, 4, 16)),
    "B": ({"d_model": 256, "n_layers": 8, "n_heads": 4, "n_kv_heads": 4, "d_ff": 960}, 16_384, (1, 4, 16)),
    "D": ({"d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12, "d_ff": 2048}, 16_384, (1, 2, 4)),
}
"""Dimensions, vocabulary, and the rows of a step, all at one time."""
SEQ_LEN, LEAST_SECONDS, STEPS = 1024, 6.0, (3, 12)
MEMORY_WITHIN, TIME_WITHIN = 0.10, 0.20


def recipe_of(name: str, rows: int, root: Path, compile: str = "on") -> Any:
    from luthier.config.schema import Recipe

    model, vocab_size, _ = SHAPES[name]
    tokens = rows * SEQ_LEN
    pretrain = {"steps": 100_000, "global_batch_tokens": tokens, "micro_batch_size": rows, "device": "cpu", "compile": compile}
    described = {"model": model, "tokenizer": {"vocab_size": vocab_size}, "pack": {"seq_len": SEQ_LEN}, "pretrain": pretrain}
    return Recipe.model_validate({**described, "runs": {"root": str(root)}})


def measure(name: str, rows: int, root: Path, compile: str) -> dict[str, float]:
    """Train in this process: steps, a checkpoint, another step, validation. Units: seconds, GiB"""
    import numpy as np
    from torch._dynamo.utils import counters

    from luthier.evals.bits_per_byte import evaluate
    from luthier.runs.progress import Progress
    from luthier.stages.bench import Subject
    from luthier.train.device import memory_gib

    class Tokens:
        """Validation text that is the same token again and again."""

        n_tokens = 8 * SEQ_LEN

        def read(self, start: int, count: int) -> np.ndarray:
            return np.full(count, 5)

    (root / "store").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject.of(recipe_of(name, rows, root, compile), Path(folder), Progress())
        first = subject.loop(1)[0]
        subject.loop(1)
        seconds: list[float] = []
        while len(seconds) < STEPS[0] or (sum(seconds) < LEAST_SECONDS and len(seconds) < STEPS[1]):
            seconds += subject.loop(1)
        subject.recorder.saver.save(subject.trainee, {})
        subject.recorder.saver.finish()
        subject.loop(1)
        model = subject.training.model.eval()
        evaluate(model, Tokens(), np.ones(model.config.vocab_size, np.int64), "cpu")  # type: ignore[arg-type]
        subject.close()
    missed = int(counters["inductor"]["fxgraph_cache_miss"])
    return {"first": first, "step": statistics.median(seconds), "gib": memory_gib("cpu"), "compiled_now": missed}


def apart(words: list[str], environment: dict[str, str]) -> Any:
    """Run this file in a process of its own; what it said last."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def line(name: str, unit: str, predicted: float, measured: float, within: float) -> dict[str, Any]:
    ratio = predicted / measured
    met = 1 - within <= ratio <= 1 + within
    return {"name": name, "unit": unit, "predicted": predicted, "measured": measured, "ratio": ratio, "goal": within, "met": met}


def compare(name: str, rows: int, root: Path, compile: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    """The two rows of one training."""
    from luthier.plan.hardware import this_machine
    from luthier.plan.report import plan

    found = apart(["--one", name, str(rows), str(root), compile], environment)
    predicted = plan(recipe_of(name, rows, root, compile), this_machine(root, "cpu"))
    assert predicted.step_seconds is not None, "the machine is calibrated"
    memory = sum(size for part, size in predicted.memory.items() if part != "compiler" or found["compiled_now"]) / 2**30
    how = "not compiled" if compile == "off" else "compiled now" if found["compiled_now"] else "compiled before"
    return [
        line(f"{name}, {rows} rows: memory, {how}", "GiB", memory, found["gib"], MEMORY_WITHIN),
        line(f"{name}, {rows} rows: step", "s", predicted.step_seconds, found["step"], TIME_WITHIN),
    ]


def _cases(names: list[str], only: list[int] | None) -> list[tuple[str, int]]:
    """All shapes with their smallest micro-batch first, so that a run that is cut short has seen each."""
    found = [(place, name, rows) for name in names for place, rows in enumerate(SHAPES[name][2]) if not only or rows in only]
    return [(name, rows) for _, name, rows in sorted(found, key=lambda case: case[0])]


def show(lines: list[dict[str, Any]]) -> None:
    for one in lines:
        met = "met" if one["met"] else "NOT MET"
        figures = f"predicted {one['predicted']:7.3f}  measured {one['measured']:7.3f} {one['unit']:<4}"
        print(f"{one['name']:<42}{figures}{one['ratio']:6.2f}  within {one['goal']:.0%}: {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument("--rows", nargs="+", type=int, help="only these micro-batches")
    parser.add_argument("--uncompiled", action="store_true", help="do not compile")
    parser.add_argument("--cold", action="store_true", help="compile anew")
    parser.add_argument("--seconds", type=float, default=560.0, help="begin nothing new after so many seconds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=4, metavar=("SHAPE", "ROWS", "ROOT", "COMPILE"), help=argparse.SUPPRESS)
    parser.add_argument("--calibrate", metavar="ROOT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, rows, root, compile = arguments.one
        print(json.dumps(measure(name, int(rows), Path(root), compile)))
        return
    if arguments.calibrate:
        from luthier.stages.calibrate import calibrate_verb

        calibrate_verb(as_json=False, root=arguments.calibrate)
        print("{}")
        return
    end = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(temporary if arguments.cold else cache_folder()) / "inductor"
        path = os.pathsep.join(filter(None, [str(ROOT.parent), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(kept)}
        apart(["--calibrate", temporary], environment)
        lines: list[dict[str, Any]] = []
        for name, rows in _cases(arguments.only, arguments.rows):
            if time.monotonic() > end:
                print(f"{name}, {rows} rows: no time left", file=sys.stderr)
                continue
            new = compare(name, rows, Path(temporary), "off" if arguments.uncompiled else "on", environment)
            lines += new
            if not arguments.json:
                show(new)
    if arguments.json:
        print(json.dumps(lines, indent=2))


if __name__ == "__main__":
    main()
