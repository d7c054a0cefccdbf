"""The benchmark's side of workers that wait for orders, so that many can be warm and take turns. In: names. Out: what they answer."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measuring import ROOT, cache_folder, peers_python

from luthier.runs.progress import Progress

PACKAGES = ("torch==2.13.0", "litgpt==0.5.13", "transformers==5.3.0", "numpy")
REWRITTEN = ("nanoGPT", "nanochat")
"""Peers that are no packages; what is measured was written anew from what they publish."""


class Racer:
    """One process of `training_worker.py`: it makes its trainee, then answers each line with a line."""

    def __init__(self, who: str, settings: dict[str, Any]) -> None:
        self.who = who
        python = Path(sys.executable) if who == "ours" else peers_python("training-peers", PACKAGES)
        environment = {**os.environ, "PYTHONPATH": str(ROOT.parent) if who == "ours" else ""}
        command = [str(python), str(ROOT / "training_worker.py"), who, json.dumps(settings)]
        self._log = cache_folder() / f"training-{who}.log"
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send an order and wait for what comes of it.

        Raises: RuntimeError with the worker's last words
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.who}: {' / '.join(self._log.read_text(errors='replace').splitlines()[-3:])}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()


@contextlib.contextmanager
def racing(entries: Sequence[tuple[str, dict[str, Any]]]) -> Generator[list[Racer], None, None]:
    """Start workers, and end them whatever happens."""
    racers = [Racer(who, settings) for who, settings in entries]
    try:
        yield racers
    finally:
        for racer in racers:
            racer.close()


def warm_up(racers: Sequence[Racer], progress: Progress, steps: int = 2) -> dict[str, str]:
    """Let all take their first steps, two at a time; return what went wrong, by name."""
    failed: dict[str, str] = {}

    def first(racer: Racer) -> None:
        try:
            seconds = racer.ask(steps=steps)["seconds"]
            progress.say(f"  {racer.who}: first step {seconds[0]:.0f} s")
        except RuntimeError as error:
            failed[racer.who] = str(error)
            progress.say(f"  {error}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(first, racers))
    return failed


def take_turns(racers: Sequence[Racer], rounds: int, steps: int) -> dict[str, float]:
    """Each in turn takes some steps, several times; give each one's median. Units: seconds a step"""
    found: dict[str, list[float]] = {racer.who: [] for racer in racers}
    for _ in range(rounds):
        for racer in racers:
            found[racer.who] += racer.ask(steps=steps)["seconds"]
    return {who: statistics.median(seconds) for who, seconds in found.items()}
