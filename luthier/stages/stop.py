"""Verb stop: ask a run, of any terminal, to save and end. In: a run. Out: its STOP file, which it looks for after every step."""

from __future__ import annotations

from luthier.errors import ConfigError
from luthier.runs.directory import now
from luthier.runs.files import write_text
from luthier.runs.lock import describe, holder, is_locked
from luthier.runs.registry import find_run, look_at, runs_root
from luthier.stages.output import print_json
from luthier.train.stopping import STOP_FILE


def stop_verb(run: str, *, as_json: bool, root: str | None) -> None:
    """Write the STOP file of a run that is at work.

    Raises: ConfigError when it is not
    """
    found = find_run(run, runs_root(root))
    if not is_locked(found.path):
        status = look_at(found.path).get("status")
        raise ConfigError(f"{found.path}: not running, its status is {status!r}", fix="there is nothing to stop")
    who = holder(found.path)
    write_text(found.path / STOP_FILE, f"{now()}\n")
    if as_json:
        print_json({"run": str(found.path), "pid": who.get("pid"), "host": who.get("host"), "asked": True})
    else:
        print(f"asked {found.path.name} to stop ({describe(who)}): it finishes its step, saves, and says which command goes on")
