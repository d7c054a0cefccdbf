"""What a program that a model wrote may not do. In: the process that is to become it. Out: the same, with limits. Next: program.

Little memory and time, small files; on Linux none written or removed outside its folder (Landlock, since 5.13), no other processes, no
network, no signals to others nor limits for them, no file's mode, owner, times or attributes changed (a filter of system calls). This stops
accidents and most mischief; it is no wall against code that is out to do harm, which can still read what its user can.
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
_EVERYWHERE = (424, 425, 435, 452, 463, 466, 469)
"""pidfd_send_signal, io_uring_setup, clone3, fchmodat2, setxattrat, removexattrat, file_setattr: the same on every architecture."""
REFUSED = {
    "x86_64": (
        *(41, 56, 57, 58),  # socket, clone, fork, vfork
        *(62, 101, 129, 200, 234, 297, 311),  # kill, ptrace, rt_sigqueueinfo, tkill, tgkill, rt_tgsigqueueinfo, process_vm_writev
        *(160, 302),  # setrlimit, prlimit64
        *(76, 90, 91, 268, 92, 93, 94, 260),  # truncate, chmod, fchmod, fchmodat, chown, fchown, lchown, fchownat
        *(132, 235, 261, 280),  # utime, utimes, futimesat, utimensat
        *(188, 189, 190, 197, 198, 199),  # setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr
        *_EVERYWHERE,
    ),
    "aarch64": (
        *(198, 220),  # socket, clone
        *(117, 129, 130, 131, 138, 240, 271),  # ptrace, kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, process_vm_writev
        *(164, 261),  # setrlimit, prlimit64
        *(45, 52, 53, 54, 55, 88),  # truncate, fchmod, fchmodat, fchownat, fchown, utimensat
        *(5, 6, 7, 14, 15, 16),  # setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr
        *_EVERYWHERE,
    ),
}
"""Numbers of system calls (asm/unistd.h)."""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # of linux/audit.h
_X32 = 0x40000000  # numbers from here on are a second table of x86_64's
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # calls of Landlock, the same on every architecture
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _BENEATH = 38, 22, 2, 1  # of linux/prctl.h, seccomp.h and landlock.h
_CHANGES = 0b1_1111_1111_0010  # of linux/landlock.h: write, remove and make files and folders of every kind
_TRUNCATE = 1 << 14
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # of linux/bpf_common.h
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000  # of linux/seccomp.h


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
        if (machine := platform.machine()) in REFUSED:
            refuse_calls(REFUSED[machine], _ARCHITECTURES[machine], libc)  # last: limits are such calls


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


def refuse_calls(numbers: Sequence[int], architecture: int, libc: ctypes.CDLL) -> None:
    """Let system calls of these numbers fail with EPERM in the calling process, and all of another architecture, whose numbers differ.

    Source: Linux's Documentation/userspace-api/seccomp_filter.rst
    """
    refused = (_RETURN, 0, 0, _ERROR | errno.EPERM)
    lines = [(_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, architecture), refused]  # the architecture stands behind the number
    lines += [(_LOAD, 0, 0, 0), (_IF_AT_LEAST, 0, 1, _X32), refused]
    for number in numbers:
        lines += [(_IF_EQUAL, 0, 1, number), refused]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in [*lines, (_RETURN, 0, 0, _ALLOW)]))
    libc.prctl(_SECCOMP, _FILTER, struct.pack("HP", len(lines) + 1, ctypes.addressof(code)), 0, 0)
