# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
"""How kernels are compiled. In: a function of numbers and arrays. Out: the same, compiled when first called. Next: kernels anywhere.

Importing this module imports numba. What was compiled is kept beside the source, or in the user's cache where the source cannot be written,
or for this process only where neither can.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

from luthier.runs.progress import Progress

Function = TypeVar("Function", bound=Callable[..., Any])

COMPILING = "compiling kernels; this is done once"


def kernel(function: Function) -> Function:
    """Compile a function when it is first called, to run without Python's lock."""
    compiled: Any = njit(nogil=True)(function)
    try:
        compiled.enable_caching()
    except RuntimeError:  # no folder for a cache can be written
        return cast(Function, compiled)
    return cast(Function, compiled)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a kernel; that its compiled form cannot be written to a cache (a full disk, say) is no reason to fail."""
    try:
        return function(*arguments)
    except OSError:
        return function(*arguments)  # compiled in memory by now


def say_if_compiling(progress: Progress, *functions: Callable[..., Any]) -> None:
    """Tell a person what the next seconds are for, unless these kernels were compiled before."""
    if not all(_is_kept(function) for function in functions):
        progress.say(COMPILING)


def _is_kept(function: Any) -> bool:
    source = Path(function.py_func.__code__.co_filename)
    try:
        kept = [path.stat().st_mtime for path in Path(function.stats.cache_path).glob(f"*.{function.py_func.__name__}-*.nbi")]
        return bool(function.signatures) or any(time >= source.stat().st_mtime for time in kept)
    except (OSError, TypeError):  # no cache at all
        return bool(function.signatures)
