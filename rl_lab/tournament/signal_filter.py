"""Forbid this process and its future children to send signals to the processes that watch it (Linux only).

The system's filter of calls (seccomp) needs no rights. It prevents a bot's `os.kill(os.getppid(), ...)` or
`os.kill(-1, ...)`; it is no protection against an attacker, who has other ways.

Source: Linux's seccomp(2), bpf.h and the tables of system calls of x86-64 and of AArch64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

# By machine: AUDIT_ARCH_*, the number of seccomp(2), and those of the calls whose first argument is a process that gets
# a signal: kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_open.
_CALLS = {
    "x86_64": (0xC000003E, 317, (62, 200, 234, 129, 297, 434)),
    "aarch64": (0xC00000B7, 277, (129, 130, 131, 138, 240, 434)),
}
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # SPEC_ALLOW: without it, older systems slow the whole process down
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ARCHITECTURE, _NUMBER, _FIRST_ARGUMENT = 4, 0, 16  # offsets in struct seccomp_data, little-endian
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def spare_watchers() -> None:
    """Refuse, with PermissionError, signals to the parent process, to its group, and to all processes at once.

    Nothing happens where the system has no such filter.
    """
    parent = os.getppid()
    if parent > 1:
        _refuse_signals_to({parent, -os.getpgid(parent), -1} - {-os.getpgid(0)})


def _refuse_signals_to(targets: Iterable[int]) -> None:
    """Install a filter for these processes, and groups as negative numbers."""
    machine = _CALLS.get(platform.machine())
    if machine is None or not hasattr(ctypes, "CDLL"):
        return
    architecture, seccomp, calls = machine
    program = _program(architecture, calls, sorted(targets))
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            filtering = _Program(len(program) // 8, program)
            libc.syscall(seccomp, _SET_MODE_FILTER, _SPEC_ALLOW, ctypes.byref(filtering))
    except (OSError, AttributeError):  # another system than Linux
        return


def _program(architecture: int, calls: Iterable[int], targets: list[int]) -> bytes:
    """Return the filter's instructions, 8 bytes each; jumps count the instructions to skip."""
    calls = list(calls)
    below = len(calls) + len(targets) + 1  # instructions between the check of the architecture and the last two
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_IF_EQUAL, 0, below + 1, architecture), (_LOAD, 0, 0, _NUMBER)]
    for k, call in enumerate(calls):
        is_last = k == len(calls) - 1
        steps.append((_JUMP_IF_EQUAL, len(calls) - 1 - k, len(targets) + 1 if is_last else 0, call))
    steps.append((_LOAD, 0, 0, _FIRST_ARGUMENT))
    steps += [(_JUMP_IF_EQUAL, len(targets) - k, 0, target & 0xFFFFFFFF) for k, target in enumerate(targets)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
