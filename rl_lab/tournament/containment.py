"""This module limits processes that run entrants' code, and kills all processes that such code has started.

Worker processes call `contain` to limit themselves. Other functions find and kill processes in three ways, because an
entrant can evade each of them:

- by process group (`kill_group`), which a process can leave (`setsid`);
- by an environment variable, MARK_VARIABLE, whose random value a process inherits from the one that started it
  (`kill_marked`);
- by descent: a process that is the "subreaper" of its descendants becomes the parent of those whose own parent has
  ended (`become_subreaper`, `kill_adopted_children`), on Linux only.
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
MAX_MEMORY = 8 * 2**30
_MAX_PROCESSES = 1024  # processes and threads that the user may have beyond the present ones
MARK_VARIABLE = "RL_LAB_CONTAINED"  # the environment variable that marks what a contained process has started
_MAX_KILL_SECONDS = 2.0  # after which killing is given up: processes may start others faster than they are killed
_SCAN_INTERVAL = 0.1  # seconds between two scans of all processes
_PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
# State of this process, in lists so that functions can change it.
_last_scan = [-_SCAN_INTERVAL]  # time.monotonic() of the last scan of all processes
_subreaper_pid = [0]  # id of the process that has called `become_subreaper`; a forked child has another id


def contain(memory: int | None = None) -> None:
    """Limit this process and its future children, and make it the leader of a process group of its own.

    Memory is limited to `memory` bytes beyond the present size, where the system supports RLIMIT_DATA; an allocation
    beyond that raises MemoryError. The number of processes is limited, too, which the system does not enforce for
    root. Processes whose parent has ended become children of this process (Linux only), so that they
    are counted.
    """
    with suppress(OSError):
        os.setpgid(0, 0)
    become_subreaper()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    extra = min(MAX_MEMORY, total // 2) if memory is None else memory
    _limit(resource.RLIMIT_DATA, _data_bytes() + extra)
    if os.geteuid():
        _limit(resource.RLIMIT_NPROC, _num_threads(os.getuid()) + _MAX_PROCESSES)
    _limit(resource.RLIMIT_CORE, 0)


def restore_crash_signals() -> None:
    """Let a segmentation fault end this process by its signal, without the engine's message about the world's kernels.

    Where entrants are code, either an entrant or a kernel of the world has caused it. `isolation` plays the match again
    and makes the signal the reason of a forfeit. If it did not come during an entrant's call, the reason also says that
    the kernel may have caused it.
    """
    for number in (signal.SIGSEGV, signal.SIGBUS):
        signal.signal(number, signal.SIG_DFL)


def become_subreaper() -> None:
    """Make this process the parent of descendants whose own parent has ended (Linux only)."""
    with suppress(OSError, AttributeError):
        _subreaper_pid[0] = os.getpid() if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 else 0


def kill_adopted_children(excluded: Collection[int]) -> None:
    """Kill all children of this process except those in `excluded`, if it has called `become_subreaper`.

    Killing a child makes its own children the children of this process, so it is repeated until none is left.
    """
    deadline = time.monotonic() + _MAX_KILL_SECONDS
    while _subreaper_pid[0] == os.getpid() and (others := set(child_pids(force_scan=True)).difference(excluded)):
        for pid in others:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        count_living(list(others))
        if time.monotonic() > deadline:
            return
        time.sleep(1e-3)


def kill_group(leader: int) -> None:
    """Kill a process and its process group; `leader` is the id of both."""
    if leader > 1:
        for kill in (os.killpg, os.kill):
            with suppress(OSError):
                kill(leader, signal.SIGKILL)


def new_mark() -> str:
    """Return a random value for `MARK_VARIABLE`."""
    return secrets.token_hex(16)


def kill_marked(mark: str) -> None:
    """Kill all processes that were started with this value of `MARK_VARIABLE`, and all that were forked from them."""
    deadline = time.monotonic() + _MAX_KILL_SECONDS
    while (marked := _marked_pids(mark)) and time.monotonic() < deadline:
        for pid in marked:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(1e-3)


def _marked_pids(mark: str) -> list[int]:
    """Return the ids of the live processes with this mark, or [] where the system does not show them."""
    entry, marked = f"{MARK_VARIABLE}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended in the meantime, or belongs to another user
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                marked.append(int(folder.name))
    return marked


def count_living(pids: list[int]) -> int:
    """Return how many of these children of this process are alive, and reap the others."""
    count = 0
    for child in pids:
        with suppress(OSError):  # it has been reaped elsewhere
            count += os.waitpid(child, os.WNOHANG)[0] == 0
    return count


def child_pids(*, force_scan: bool = False) -> list[int]:
    """Return the ids of this process's children, with those that have ended and are not reaped.

    Where the system has no lists of children, this scans all processes, at most once in `_SCAN_INTERVAL` seconds
    unless `force_scan`; between two scans, and where the system does not show the processes, it returns [].
    """
    try:
        lists = [Path(f"/proc/self/task/{task}/children").read_text() for task in os.listdir("/proc/self/task")]
        return [int(child) for each in lists for child in each.split()]
    except OSError:
        return _scan_for_children() if force_scan or time.monotonic() - _last_scan[0] > _SCAN_INTERVAL else []


def _scan_for_children() -> list[int]:
    """Return the ids of this process's children by a scan of all processes."""
    pids, parent = [], os.getpid()
    _last_scan[0] = time.monotonic()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # the process has ended in the meantime
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                pids.append(int(folder.name))
    return pids


def _limit(resource_id: int, limit: int) -> None:
    """Set this process's soft limit of a resource, such as `resource.RLIMIT_DATA`; the hard limit stays."""
    _, hard = resource.getrlimit(resource_id)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource_id, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


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
