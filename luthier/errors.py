"""The errors a user can meet; each says where, what must hold, what was got, and how to fix it.

`cli.py` prints these without a traceback and exits with `exit_code`. A bug of ours is an `assert` or any other exception and keeps
its traceback.
"""

from __future__ import annotations


class LuthierError(Exception):
    """Base of every error that is not a bug of ours."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return self.message if self.fix is None else f"{self.message}\n  {self.fix}"


class ConfigError(LuthierError, ValueError):
    """A recipe, an override or a command line is wrong."""

    exit_code = 2


class DataError(LuthierError, ValueError):
    """Documents, conversations or token shards are missing, broken or too few."""

    exit_code = 2


class CheckpointError(LuthierError, RuntimeError):
    """A checkpoint is missing, incomplete, altered, or belongs to something else."""


class HardwareError(LuthierError, RuntimeError):
    """The machine cannot do what was explicitly asked for."""

    exit_code = 2


class HardwareFailure(HardwareError):
    """Hardware that was there failed: a device is lost, another rank is gone, or it computes wrongly."""

    exit_code = 1


class NumericsError(LuthierError, RuntimeError):
    """A loss or a gradient stopped being finite."""


class StorageError(LuthierError, OSError):
    """The disk is full, read-only, or may not be written."""


class MissingExtraError(LuthierError, ImportError):
    """An optional dependency is needed for what was asked."""

    exit_code = 2


class LockedError(LuthierError, RuntimeError):
    """Another process works in the same directory."""

    exit_code = 3


class PortInUseError(LuthierError, OSError):
    """The server's port is taken."""

    exit_code = 4


class Interrupted(LuthierError):
    """Stopped on request (Ctrl-C) after everything was saved."""

    exit_code = 130


class Terminated(LuthierError):
    """Stopped by SIGTERM after everything was saved."""

    exit_code = 143
