"""What each rank does in the tests of recipes that several processes train; see tests/ranks.py.

What a run imports late is imported here, so that the ranks, which are forked, need not.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import torch

from luthier.cli import call
from luthier.stages import recorder
from luthier.train import loop
from luthier.train.stopping import StopRequest

for module in (
    *(f"luthier.stages.{name}" for name in ("run", "follow", "data", "tokenizer", "pack", "pretrain", "sft", "training", "report")),
    *("luthier.data.documents", "luthier.pack.shards", "luthier.tokenizer.train", "luthier.tokenizer.measures"),
    *("luthier.evals.bits_per_byte", "luthier.generate.engine", "luthier.optim.schedule", "luthier.tasks.build"),
    *("torch._dynamo", "torch.distributed.rendezvous", "pyarrow.parquet", "tiktoken", "ftfy", "rich.progress"),
):
    importlib.import_module(module)


def part(rank: int, size: int, arguments: list[str], root: str, stop_after: int | None = None, slow_to_save: float = 0.0) -> dict[str, Any]:
    """Run a command line; the last rank wants to stop after some steps, the leading one may be slow to save."""
    torch.set_num_threads(1)
    tokens: list[list[int]] = []
    share_of = loop.share_of

    def seeing(batch: Any, world: Any) -> Any:
        mine = share_of(batch, world)
        tokens.append(mine.inputs.flatten().tolist())
        return mine

    def wish(self: StopRequest) -> str | None:
        return "the test" if rank == size - 1 and len(tokens) == stop_after else None

    save = recorder.Saver.save

    def slowly(*arguments: Any) -> None:
        time.sleep(slow_to_save)
        save(*arguments)

    loop.share_of, StopRequest._look, recorder.Saver.save = seeing, wish, slowly  # type: ignore[method-assign]
    code = call(arguments)
    saved = sorted(path.parent.name for path in Path(root).glob("store/*/*/checkpoints/step_*/MANIFEST.json"))
    return {"code": code, "tokens": tokens, "saved": saved}
