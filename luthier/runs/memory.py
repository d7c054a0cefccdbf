"""What malloc keeps of freed memory. In: nothing. Out: nothing. Next: work that is followed by other work."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def return_freed_memory() -> None:
    """Hand back to the system what glibc keeps of freed blocks; elsewhere do nothing."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
