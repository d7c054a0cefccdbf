"""Where faults are tried. In: a fault. Out: a row of the table: what it is, how often it was tried, how often it was survived."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.shim import Fault, label_of
from tests.faults.toy import Ending, ending, leftovers, whole_checkpoints, write_toy
from tests.faults.zygote import Attempt, Zygote


@dataclass
class Row:
    """One fault's line of the table."""

    fault: str
    what: str
    tries: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def survived(self) -> int:
        return self.tries - len(self.failures)

    def note(self, what: str, wrong: Sequence[str]) -> None:
        """Count one try; it is survived when nothing was wrong."""
        self.tries += 1
        if wrong:
            self.failures.append(f"{what}: {'; '.join(wrong)}")


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to."""

    ending: Ending
    attempt: Attempt
    root: Path


class Bench:
    """Toy, forking process, and a directory for each try."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.recipe = write_toy(directory)
        self._zygotes = [Zygote(directory, hash_seed) for hash_seed in (1, 2)]
        self._undisturbed: dict[tuple[str, ...], Undisturbed] = {}
        self._interrupted: dict[tuple[str, ...], Path] = {}
        self._tries = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *raised: Any) -> None:
        for zygote in self._zygotes:
            zygote.close()

    def fresh(self) -> Path:
        """An empty directory for one try."""
        self._tries += 1
        root = self.directory / f"try{self._tries:05d}"
        root.mkdir()
        return root

    def copy(self, root: Path) -> Path:
        """The same state once more."""
        target = self.fresh()
        shutil.copytree(root, target, symlinks=True, dirs_exist_ok=True)
        return target

    def run(
        self, root: Path, *overrides: str, fault: Fault | None = None, content: bool = False, kill_after: float | None = None
    ) -> Attempt:
        """The command, once."""
        arguments = ["pretrain", str(self.recipe), f"runs.root={root / 'runs'}", *overrides]
        self._zygotes.reverse()  # the next attempt has another order of sets, as in life
        return self._zygotes[0].attempt(arguments, root, fault, content=content, kill_after=kill_after)

    def undisturbed(self, *overrides: str) -> Undisturbed:
        """A whole run without faults, with the bytes of all its operations; made once for the same overrides."""
        if overrides not in self._undisturbed:
            root = self.fresh()
            attempt = self.run(root, *overrides, content=True)
            assert attempt.code == 0, attempt.stderr
            self._undisturbed[overrides] = Undisturbed(ending(root), attempt, root)
        return self._undisturbed[overrides]

    def interrupted(self, *overrides: str) -> Path:
        """A run with at least two whole checkpoints that was killed after step 30, to be copied; made once for the same overrides."""
        if overrides not in self._interrupted:
            root = self.fresh()
            labels = [label_of(kind, path) for kind, path, _ in self.undisturbed(*overrides).attempt.operations]
            label = next(label for label in labels if label.startswith("write ") and label.endswith("metrics.jsonl"))
            attempt = self.run(root, *overrides, fault=Fault(label, 36))
            assert attempt.killed and len(whole_checkpoints(root)) >= 2, last_words(attempt)
            self._interrupted[overrides] = root
        return self._interrupted[overrides]

    def verdict(self, root: Path, *overrides: str) -> list[str]:
        """Give the command once more and say what is not as in the undisturbed run."""
        attempt = self.run(root, *overrides)
        if attempt.code != 0:
            return [f"the next attempt ends with code {attempt.code}: {last_words(attempt)}"]
        return self.end_is_wrong(root, *overrides)

    def end_is_wrong(self, root: Path, *overrides: str) -> list[str]:
        """Say in what a finished run differs from the undisturbed one."""
        try:
            wrong = self.undisturbed(*overrides).ending.differences(ending(root))
        except Exception as error:  # a broken file is a finding, whatever it breaks
            wrong = [f"the end cannot be read: {type(error).__name__}: {error}"]
        left = [re.sub(r"\b[0-9a-f]{8,}\b", "KEY", name) for name in leftovers(root)]
        return [*wrong, *([f"left behind: {', '.join(left)}"] if left else [])]


def last_words(attempt: Attempt) -> str:
    """The end of what an attempt said, on one line."""
    return " / ".join(attempt.stderr.strip().splitlines()[-3:])


def impolite(attempt: Attempt) -> list[str]:
    """What is wrong with how an attempt failed: it must say one sentence, without a traceback, and exit with 1."""
    wrong = [f"code {attempt.code} instead of 1: {last_words(attempt)}"] if attempt.code != 1 else []
    if "Traceback" in attempt.stderr:
        wrong.append(f"a traceback: {last_words(attempt)}")
    elif attempt.code == 1 and "error: " not in attempt.stderr:
        wrong.append(f"no sentence: {last_words(attempt)}")
    return wrong


Experiment = Callable[[Bench], Row]
