"""What glibc's malloc keeps of freed memory, and the peak. In: nothing. Out: nothing. Next: training; work followed by other work."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks instead of handing them back to the system after every step; elsewhere do nothing."""
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    _ask("mallopt", mmap_threshold, 2**30)
    _ask("mallopt", trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Hand back to the system what glibc keeps of freed blocks; elsewhere do nothing."""
    _ask("malloc_trim", 0)


def forget_peak() -> None:
    """Let the process's peak of memory be counted from now on, where Linux allows it; elsewhere do nothing."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _ask(name: str, *numbers: int) -> None:
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), name)(*numbers)
