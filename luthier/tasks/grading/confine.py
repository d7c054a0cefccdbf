"""What a program that a model wrote may not do. In: the process that is to become it. Out: the same, with limits. Next: program.

Little memory and time, small files; on Linux none written or removed outside its folder (Landlock, since 5.13), no other processes, no
network, no signals to others (a filter of system calls). This stops accidents and most mischief; it is no wall against code that is
out to do harm, which can still read what its user can.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

SECONDS = 3
MEMORY = 2**29
FILE_BYTES = 2**20
REFUSED = {
    "x86_64": (41, 56, 57, 58, 62, 101, 200, 234, 435),
    "aarch64": (117, 129, 130, 131, 198, 220, 435),
}
"""Numbers of socket, clone, fork, vfork, kill, ptrace, tkill, tgkill and clone3 (asm/unistd.h), as far as an architecture has them."""
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # calls of Landlock, the same on every architecture
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _BENEATH = 38, 22, 2, 1  # of linux/prctl.h, seccomp.h and landlock.h
_CHANGES = 0b1_1111_1111_0010  # of linux/landlock.h: write, remove and make files and folders of every kind
_TRUNCATE = 1 << 14
_LOAD, _IF_EQUAL, _RETURN, _ALLOW, _ERROR = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000  # of linux/bpf_common.h and seccomp.h


def confine(folder: Path) -> None:
    """Limit the process that calls this, for good; what a system does not have is left out.

    Raises: OSError where a limit of resources is refused
    """
    import resource

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
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        keep_changes_in(folder, libc)
        refuse_calls(REFUSED.get(platform.machine(), ()), libc)


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
    libc.syscall(_RESTRICT_SELF, rules, 0)
    os.close(inside)
    os.close(rules)


def refuse_calls(numbers: Sequence[int], libc: ctypes.CDLL) -> None:
    """Let system calls of these numbers fail with EPERM in the calling process.

    Source: Linux's Documentation/userspace-api/seccomp_filter.rst
    """
    lines = [(_LOAD, 0, 0, 0)]  # the number stands first
    for number in numbers:
        lines += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in [*lines, (_RETURN, 0, 0, _ALLOW)]))
    libc.prctl(_SECCOMP, _FILTER, struct.pack("HP", len(lines) + 1, ctypes.addressof(code)), 0, 0)
