"""Ranks that find each other. In: torchrun's store, in which keys of processes that died may be left. Out: a fresh store. Next: parallel.

torchrun keeps one store for all its restarts, and its count of them is not the same on all machines. So the leading rank makes up a
name, calls those whose signs it sees, and waits until each has heard it; a sign or a name of a dead process is nobody's answer.
"""

from __future__ import annotations

import json
import time
import uuid

import torch.distributed as dist

_PAUSE = 0.02


def meet(store: dist.Store, rank: int, size: int, seconds: float) -> dist.Store:
    """Return a part of the store that only the processes living now write to.

    Raises: RuntimeError when a rank does not come
    """
    end, mine = time.monotonic() + seconds, uuid.uuid4().hex

    def read(key: str) -> str:
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:.0f} s for the ranks to meet")
        return store.get(key).decode() if store.check([key]) else ""

    if rank > 0:
        store.set(f"sign/{rank}", mine)
        while not (call := read("call")) or json.loads(call)["signs"][rank - 1] != mine:
            time.sleep(_PAUSE)
        name = json.loads(call)["name"]
        store.set(f"heard/{rank}", name)
        return dist.PrefixStore(name, store)
    others = range(1, size)
    while any(read(f"heard/{other}") != mine for other in others):
        store.set("call", json.dumps({"name": mine, "signs": [read(f"sign/{other}") for other in others]}))
        time.sleep(_PAUSE)
    return dist.PrefixStore(mine, store)
