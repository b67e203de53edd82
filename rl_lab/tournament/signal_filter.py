"""This module forbids the current process and its future children to send signals to its parent (Linux only).

Processes that run entrants call `protect_parent_from_signals` once, before any entrant's code runs. It installs a
filter of system calls (seccomp with a BPF program), which needs no privileges and cannot be removed. It prevents an
entrant's `os.kill(os.getppid(), ...)` or `os.kill(-1, ...)`; it is no protection against an attacker, who has other
ways.

Source: Linux's seccomp(2), bpf.h and the tables of system calls of x86-64 and of AArch64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

# By machine: the constant AUDIT_ARCH_*, the number of the system call seccomp, and the numbers of the calls whose first
# argument is a process that gets a signal: kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_open.
_SYSTEM_CALLS = {
    "x86_64": (0xC000003E, 317, (62, 200, 234, 129, 297, 434)),
    "aarch64": (0xC00000B7, 277, (129, 130, 131, 138, 240, 434)),
}
_PR_SET_NO_NEW_PRIVS = 38  # of prctl(2); seccomp requires it of processes without privileges
# Of seccomp(2): SECCOMP_SET_MODE_FILTER, and SECCOMP_FILTER_FLAG_SPEC_ALLOW, without which older systems slow the whole
# process down.
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ARCHITECTURE, _CALL_NUMBER, _FIRST_ARGUMENT = 4, 0, 16  # offsets in struct seccomp_data, little-endian
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO


class _BpfProgram(ctypes.Structure):
    """The struct sock_fprog of bpf.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def protect_parent_from_signals() -> None:
    """From now on, refuse signals to the parent process, to its group, and to all processes at once.

    `os.kill` then raises PermissionError. Nothing happens where the system has no such filter.
    """
    parent = os.getppid()
    if parent > 1:
        # A process that is in its parent's group may still send signals to that group, which is its own.
        _refuse_signals_to({parent, -os.getpgid(parent), -1} - {-os.getpgid(0)})


def _refuse_signals_to(targets: Iterable[int]) -> None:
    """Install a filter for these process ids; as for kill(2), groups are negative numbers and -1 is all processes."""
    machine = _SYSTEM_CALLS.get(platform.machine())
    if machine is None or not hasattr(ctypes, "CDLL"):
        return
    architecture, seccomp, calls = machine
    instructions = _bpf_instructions(architecture, calls, sorted(targets))
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            program = _BpfProgram(len(instructions) // 8, instructions)
            libc.syscall(seccomp, _SET_MODE_FILTER, _SPEC_ALLOW, ctypes.byref(program))
    except (OSError, AttributeError):  # another system than Linux
        return


def _bpf_instructions(architecture: int, calls: Iterable[int], targets: list[int]) -> bytes:
    """Return the filter's instructions, 8 bytes each.

    An instruction is (code, number of instructions to skip if equal, the same if not equal, operand). The program
    allows the call unless its number is one of `calls` and its first argument one of `targets`:

        load the architecture; if it is another one, go to "allow"
        load the call's number; if it is none of `calls`, go to "allow"
        load the first argument; if it is one of `targets`, go to "refuse"
        allow: return _ALLOW
        refuse: return _REFUSE
    """
    calls = list(calls)
    distance_to_allow = len(calls) + len(targets) + 2  # from the check of the architecture
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_IF_EQUAL, 0, distance_to_allow, architecture)]
    program.append((_LOAD, 0, 0, _CALL_NUMBER))
    for k, call in enumerate(calls):
        is_last = k == len(calls) - 1
        program.append((_JUMP_IF_EQUAL, len(calls) - 1 - k, len(targets) + 1 if is_last else 0, call))
    program.append((_LOAD, 0, 0, _FIRST_ARGUMENT))
    program += [(_JUMP_IF_EQUAL, len(targets) - k, 0, target & 0xFFFFFFFF) for k, target in enumerate(targets)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
