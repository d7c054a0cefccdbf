"""Python's garbage collector, kept from work that makes many objects and few cycles. In: nothing. Out: nothing. Next: loops anywhere."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def no_collection() -> Generator[None]:
    """Do not look for unreachable cycles meanwhile. What nobody refers to is freed all the same, at once."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def collection_by_hand() -> Generator[None]:
    """Look for unreachable cycles only where `gc.collect` is called, which then takes no account of what is there already.

    With torch loaded that is all but nothing, where a whole collection takes 0.14 s.
    """
    with no_collection():
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
