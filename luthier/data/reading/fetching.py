"""Several files at once over HTTP. In: what is wanted. Out: what is known of each file in the cache. Next: hub, urls."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Sequence
from pathlib import Path

from luthier.data.reading.digests import Digests
from luthier.data.reading.downloads import Facts, Patience, Stopped, Wanted, client, fetch, fetched
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

        def one(wanted: Wanted) -> Facts:
            try:
                return fetch(http, wanted, patience, stop, count)
            except BaseException:
                stop.set()
                raise

        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            running = [pool.submit(one, wanted) for wanted in missing]
            try:
                concurrent.futures.wait(running)
            except BaseException:
                stop.set()
                raise
    errors = [error for future in running if (error := future.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
    fresh = iter(future.result() for future in running)
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
