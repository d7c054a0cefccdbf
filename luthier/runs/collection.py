"""Python's garbage collector, kept from work that makes many objects and no cycles. In: nothing. Out: nothing. Next: loops anywhere."""

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
