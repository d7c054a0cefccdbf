"""Content that is almost right, for tests of everything that reads a file."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def altered(data: st.DataObject, content: bytes) -> bytes:
    """Bytes with some replaced, left out, put in, or doubled."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(changed)))
        end = min(len(changed), start + data.draw(st.integers(0, 40)))
        kind = data.draw(st.sampled_from(["replace", "remove", "double", "cut"]))
        if kind == "replace":
            changed[start:end] = data.draw(st.binary(max_size=40))
        elif kind == "remove":
            del changed[start:end]
        elif kind == "double":
            changed[start:start] = changed[start:end]
        else:
            del changed[start:]
    return bytes(changed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def replaced(data: st.DataObject, value: Any) -> Any:
    """A JSON value with one part replaced by something else."""
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: replaced(data, value[key])} if data.draw(st.booleans()) else {k: v for k, v in value.items() if k != key}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        index = data.draw(st.integers(0, len(value) - 1))
        return [replaced(data, item) if i == index else item for i, item in enumerate(value)]
    return data.draw(JSON)
