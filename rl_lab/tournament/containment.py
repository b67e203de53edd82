"""Contain processes that run entrants: limit memory and the number of processes, and end whole process groups.

A process that an entrant starts can leave the process group (`setsid`). It keeps the environment variables, so the
value of `MARK` identifies it when the process that started it is ended.
"""

from __future__ import annotations

import ctypes
import os
import resource
import secrets
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

# Bytes that a process may allocate beyond its present size; half of the machine's memory where that is less.
MOST_MEMORY = 8 * 2**30
_MOST_PROCESSES = 1024  # processes and threads that the user may have beyond the present ones
MARK = "RL_LAB_CONTAINED"  # the environment variable that identifies what a contained process has started
_LONGEST_END = 2.0  # seconds for ending marked processes, which may start others in the meantime
_SCAN_INTERVAL = 0.1  # seconds between two scans of all processes
_last_scan = [-_SCAN_INTERVAL]  # time.monotonic() of the last scan of all processes
_PR_SET_CHILD_SUBREAPER = 36
_adopting = [0]  # id of the process that has called `adopt`, which a forked child has not


def contain(memory: int | None = None) -> None:
    """Limit this process and its future children, and make it the leader of a process group of its own.

    Memory is limited to `memory` bytes beyond the present size, where the system supports RLIMIT_DATA; an allocation
    beyond that raises MemoryError. The number of processes is limited unless the user is root, for whom the system does
    not enforce such limits. Processes whose parent has ended become children of this process (Linux only), so that they
    are counted.
    """
    with suppress(OSError):
        os.setpgid(0, 0)
    adopt()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    extra = min(MOST_MEMORY, total // 2) if memory is None else memory
    _limit(resource.RLIMIT_DATA, _data_bytes() + extra)
    if os.geteuid():
        _limit(resource.RLIMIT_NPROC, _num_threads(os.getuid()) + _MOST_PROCESSES)
    _limit(resource.RLIMIT_CORE, 0)


def let_crashes_tell_their_signal() -> None:
    """Let a segmentation fault end this process by its signal, without the engine's message about the world's kernels.

    Where entrants are code, either an entrant or a kernel of the world has caused it. The match is played again in a
    process of its own, and the signal becomes the reason of a forfeit, which says where it was not during an entrant's
    call that it may be the kernel's.
    """
    for number in (signal.SIGSEGV, signal.SIGBUS):
        signal.signal(number, signal.SIG_DFL)


def adopt() -> None:
    """Let descendants of this process whose parent has ended become its children (Linux only)."""
    with suppress(OSError, AttributeError):
        _adopting[0] = os.getpid() if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 else 0


def end_adopted(excluded: Collection[int]) -> None:
    """Kill all children of this process except those in `excluded`, if it adopts any.

    Those that become its children by that are killed too.
    """
    deadline = time.monotonic() + _LONGEST_END
    while _adopting[0] == os.getpid() and (others := set(children(at_once=True)).difference(excluded)):
        for pid in others:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        living_children(list(others))
        if time.monotonic() > deadline:
            return
        time.sleep(1e-3)


def end_group(leader: int) -> None:
    """Kill a process and its process group."""
    if leader > 1:
        for kill in (os.killpg, os.kill):
            with suppress(OSError):
                kill(leader, signal.SIGKILL)


def new_mark() -> str:
    """Return a value of `MARK` that no other process has."""
    return secrets.token_hex(16)


def end_marked(mark: str) -> None:
    """Kill all processes that were started with this value of `MARK`, and all that were forked from them."""
    deadline = time.monotonic() + _LONGEST_END
    while (marked := _marked(mark)) and time.monotonic() < deadline:
        for pid in marked:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(1e-3)


def _marked(mark: str) -> list[int]:
    """Return the ids of the live processes with this mark, or [] where the system does not show them."""
    entry, marked = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended in the meantime, or belongs to another user
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                marked.append(int(folder.name))
    return marked


def living_children(pids: list[int]) -> int:
    """Return how many of these children of this process are alive, and reap the others."""
    count = 0
    for child in pids:
        with suppress(OSError):  # it has been reaped elsewhere
            count += os.waitpid(child, os.WNOHANG)[0] == 0
    return count


def children(*, at_once: bool = False) -> list[int]:
    """Return the ids of this process's children, with those that have ended and are not reaped.

    Where the system has no lists of children, this scans all processes, at most once in `_SCAN_INTERVAL` seconds
    unless `at_once`; between two scans, and where the system does not show the processes, it returns [].
    """
    try:
        lists = [Path(f"/proc/self/task/{task}/children").read_text() for task in os.listdir("/proc/self/task")]
        return [int(child) for each in lists for child in each.split()]
    except OSError:
        return _scan_for_children() if at_once or time.monotonic() - _last_scan[0] > _SCAN_INTERVAL else []


def _scan_for_children() -> list[int]:
    """Return the ids of this process's children by a scan of all processes."""
    pids, parent = [], os.getpid()
    _last_scan[0] = time.monotonic()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # the process has ended in the meantime
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                pids.append(int(folder.name))
    return pids


def _limit(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _data_bytes() -> int:
    """Return the size of this process's data segment in bytes, or 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _num_threads(user: int) -> int:
    """Return the number of threads of a user, in all processes that are visible in /proc."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid == user:
                count += len(os.listdir(folder / "task"))
    return count
