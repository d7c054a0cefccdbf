"""Several files at once over HTTP. In: what is wanted. Out: what is known of each file in the cache. Next: hub, urls."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Sequence
from pathlib import Path

from luthier.data.reading.digests import Digests
from luthier.data.reading.downloads import Facts, Patience, Wanted, client, fetch, fetched
from luthier.runs.progress import Progress

_AT_ONCE = 4


def fetch_all(label: str, files: Sequence[Wanted], cache: Path, progress: Progress, patience: Patience) -> list[Facts]:
    """Fetch what is not there yet, a few files at a time; what was altered in the cache is fetched again.

    Raises: DataError, StorageError
    """
    digests = Digests(cache)
    known = [_intact(wanted, digests) for wanted in files]
    digests.save()
    missing = [wanted for wanted, facts in zip(files, known, strict=True) if facts is None]
    if not missing:
        return [facts for facts in known if facts is not None]
    sizes = [wanted.size for wanted in missing]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    stop, lock = threading.Event(), threading.Lock()
    with client(patience) as http, progress.bar(f"data: {label}: fetching", total, "bytes") as bar:

        def count(amount: int) -> None:
            with lock:
                bar.advance(amount)

        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            running = [pool.submit(fetch, http, wanted, patience, stop, count) for wanted in missing]
            try:
                for done in concurrent.futures.as_completed(running):
                    done.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    fresh = iter(one.result() for one in running)
    return [facts if facts is not None else next(fresh) for facts in known]


def _intact(wanted: Wanted, digests: Digests) -> Facts | None:
    """What is known of a file that is there and unaltered; an altered one is removed."""
    facts = fetched(wanted.path)
    if facts is None or (wanted.algorithm == "sha256" and facts["sha256"] != wanted.digest):
        return None
    if digests.of_path(wanted.path) != facts["sha256"]:
        wanted.path.unlink()
        return None
    return facts
