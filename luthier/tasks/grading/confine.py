"""What a program that a model wrote may not do. In: the process that is to become it. Out: the same, with limits. Next: program.

No other processes, little memory and time, small files, none written outside its folder (Landlock, Linux 5.13), no network (namespaces,
where anybody may make some), no rights of root's. This stops accidents and most mischief; it is no wall against code that is out to
do harm, which can still read what its user can.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

SECONDS = 3
MEMORY = 2**29
FILE_BYTES = 2**20
NOBODY = 65_534
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER and CLONE_NEWNET of linux/sched.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # calls of Landlock, the same on every architecture
_BENEATH, _NO_NEW_PRIVILEGES = 1, 38
_CHANGES = 0b1_1111_1111_0010  # of linux/landlock.h: write, remove and make files and folders of every kind
_TRUNCATE = 1 << 14


def confine(folder: Path, user: int | None) -> None:
    """Limit the process that calls this, for good; as root it becomes `user` first, without whom root may start processes all the same.

    Raises: OSError where a limit of resources is refused
    """
    import resource

    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    limits = {
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    if sys.platform.startswith("linux"):  # a system that lacks one of these answers with an error and changes nothing
        libc = ctypes.CDLL(None)
        keep_changes_in(folder, libc)
        libc.unshare(_NEW_USER | _NEW_NETWORK)


def landlock_version(libc: ctypes.CDLL) -> int:
    """Which version of Landlock the system has; below 1 it has none."""
    return int(libc.syscall(_CREATE_RULESET, None, 0, 1))


def keep_changes_in(folder: Path, libc: ctypes.CDLL) -> None:
    """Let the calling process change files below a folder only.

    Source: Linux's Documentation/userspace-api/landlock.rst
    """
    version = landlock_version(libc)
    if version < 1:
        return
    rights = _CHANGES | (_TRUNCATE if version >= 3 else 0)
    rules = libc.syscall(_CREATE_RULESET, struct.pack("=Q", rights), 8, 0)
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    libc.syscall(_ADD_RULE, rules, _BENEATH, struct.pack("=Qi", rights, inside), 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.syscall(_RESTRICT_SELF, rules, 0)
    os.close(inside)
    os.close(rules)
