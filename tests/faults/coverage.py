"""Which test covers which fault. In: the tests' docstrings, which begin with a fault's id. Out: a list of ids and tests.

A docstring like `\"\"\"B6. ...` covers one fault, `\"\"\"A3, A5. ...` covers two.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

FAULTS = tuple(f"{letter}{i + 1}" for letter, count in zip("ABCDEFG", (15, 11, 10, 7, 15, 4, 5), strict=True) for i in range(count))
"""The ids of all faults that must be survived: death, disk, numbers, inputs, server, foreign files, registry."""
_IDS = re.compile(r"([A-G]\d{1,2}(?:(?:\s*,\s*|\s+and\s+)[A-G]\d{1,2})*)\b")


def covering(tests: Path) -> dict[str, list[str]]:
    """Each fault's tests, as FILE::NAME."""
    found: dict[str, list[str]] = {fault: [] for fault in FAULTS}
    for path in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                match = _IDS.match(ast.get_docstring(node) or "")
                for fault in re.findall(r"[A-G]\d+", match[1]) if match else []:
                    found.setdefault(fault, []).append(f"{path.relative_to(tests.parent)}::{node.name}{_marks(node)}")
    return found


def _marks(node: ast.FunctionDef) -> str:
    """Say of a test which is not in the default run why."""
    marks = [mark for mark in ("slow", "gpu", "network") if any(f"mark.{mark}" in ast.unparse(d) for d in node.decorator_list)]
    return f" ({', '.join(marks)})" if marks else ""


def lines(tests: Path) -> list[str]:
    """The list for people: covered faults with their tests, then the ids of the others."""
    found = covering(tests)
    shown = [f"  {fault:<4} {test}" for fault in found for test in found[fault]]
    missing = [fault for fault in found if not found[fault]]
    return ["Which test covers which fault:", *shown, f"  no test yet: {' '.join(missing) or 'none'}"]
