"""Progress for people: bars on a terminal, plain lines otherwise. In: counts. Out: stderr. Passed as a parameter, never a global."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Generator
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


RATE_SECONDS = 15.0
"""A bar's rate is that of so many last seconds."""


class Bar:
    """One running count; `advance` and `note` are cheap enough for inner loops."""

    def __init__(self, label: str, total: float | None, unit: str, done: float = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._marks: deque[tuple[float, float]] = deque([(time.monotonic(), done)])
        self._note = ""

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units."""
        self.done += amount
        now = time.monotonic()
        if len(self._marks) > 1 and now - self._marks[-2][0] < 0.1:
            self._marks.pop()  # ten marks a second are enough
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_SECONDS:
            self._marks.popleft()
        self._show()

    def note(self, text: str) -> None:
        """Show a short text, such as the loss, behind the bar."""
        self._note = text

    @property
    def rate(self) -> float:
        """Units a second lately, so that a slow start (compiling, say) is soon forgotten."""
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / max(end - begin, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the rate; `None` before the first unit."""
        if self.total is None or self.rate <= 0:
            return None
        return max(0.0, (self.total - self.done) / self.rate)

    def line(self) -> str:
        """The bar as one line of text."""
        return f"{self.label}: {self.status()}"

    def status(self) -> str:
        """Share, count, rate, time left, note."""
        of = f"{self.done / self.total:4.0%} {number(self.done)}/{number(self.total)}" if self.total else number(self.done)
        left = f", {duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        return f"{of} {self.unit}, {number(self.rate)}/s{left}{'  ' + self._note if self._note else ''}"

    def _show(self) -> None:
        return


class Progress:
    """Silent progress: the base of the two that show something, and what tests pass."""

    @contextlib.contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "", done: float = 0) -> Generator[Bar, None, None]:
        """Show a count while the block runs. `done` is what an earlier process had already counted."""
        yield Bar(label, total, unit, done)

    def say(self, text: str) -> None:
        """Print a line of log."""

    def warn(self, text: str) -> None:
        """Print a line that a user should read."""

    def sample(self, title: str, text: str) -> None:
        """Show a live sample of the model's text."""


class PlainProgress(Progress):
    """Lines on stderr, at most one every few seconds."""

    def __init__(self, stream: IO[str] | None = None, every_seconds: float = 5.0) -> None:
        self._stream = stream or sys.stderr
        self.every_seconds = every_seconds

    @contextlib.contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "", done: float = 0) -> Generator[Bar, None, None]:
        bar = _PlainBar(label, total, unit, done, self)
        yield bar
        self.say(bar.line())

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def sample(self, title: str, text: str) -> None:
        self.say(f"  {title}: {text!r}")


class _PlainBar(Bar):
    def __init__(self, label: str, total: float | None, unit: str, done: float, progress: PlainProgress) -> None:
        super().__init__(label, total, unit, done)
        self._progress = progress
        self._shown = time.monotonic()

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown >= self._progress.every_seconds:
            self._shown = now
            self._progress.say(self.line())


class TerminalProgress(Progress):
    """Moving bars by rich, on stderr."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._live: RichProgress | None = None

    @contextlib.contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "", done: float = 0) -> Generator[Bar, None, None]:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        columns: list[Any] = [
            TextColumn("[bold]{task.description}", table_column=Column(min_width=20, no_wrap=True)),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        ]
        with Progress(*columns, console=self._console, refresh_per_second=8, expand=True) as live:
            task = live.add_task(label, total=total, completed=int(done), status="")
            bar = _RichBar(label, total, unit, done, live, task)
            yield bar
            bar.show_now()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    def sample(self, title: str, text: str) -> None:
        from rich.text import Text

        line = Text.assemble((f"  {title} ", "dim"), (text.replace("\n", " "), "green"))
        self._console.print(line)


class _RichBar(Bar):
    def __init__(self, label: str, total: float | None, unit: str, done: float, live: RichProgress, task: Any) -> None:
        super().__init__(label, total, unit, done)
        self._live, self._task, self._shown = live, task, 0.0

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown < 0.1 and self.done != self.total:
            return
        self._shown = now
        self.show_now()

    def show_now(self) -> None:
        self._live.update(self._task, completed=self.done, total=self.total, status=self.status())


def progress_for(stream: IO[str] | None = None) -> Progress:
    """Bars when stderr is a terminal, plain lines otherwise."""
    chosen: IO[str] = stream if stream is not None else sys.stderr
    return TerminalProgress() if chosen.isatty() else PlainProgress(chosen)


def number(value: float) -> str:
    """A count in at most five characters: 512, 3.4k, 12M."""
    for limit, divisor, suffix in ((1e4, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if abs(value) < limit:
            scaled = value / divisor
            return f"{scaled:.0f}{suffix}" if scaled >= 100 or scaled == int(scaled) else f"{scaled:.1f}{suffix}"
    return f"{value:.1e}"


def size_text(size: float) -> str:
    """Bytes as 12.3 MiB or 1.23 GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds as 42s, 3m05s, 2h07m or 3d04h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"
