"""This module locks folders, so that one process at a time writes a run, a tournament or a sweep.

The lock is `flock` on a file `.lock` in the folder. The operating system releases it when its process ends, for any
reason, so nothing must be removed by hand. The file names the process and host that hold the lock, and is removed
with it.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rl_lab.core.errors import UsageError

NAME = ".lock"
_MAX_BYTES = 300  # the most bytes of the file that are read
_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # errors of a file system without locks
_OWNER = re.compile(r"process ([0-9]{1,10}) on (\S{1,255}) since (\S{1,40})")
_held_descriptors: set[int] = set()  # descriptors of locks; a forked child closes them, or it would still hold the lock
_held_paths: set[str] = set()  # the paths of held locks


class InUseError(UsageError):
    """The folder is locked by another process, or by another part of this one; the message is one line."""


@contextmanager
def lock_folder(folder: Path, content: str) -> Iterator[None]:
    """Hold the lock of an existing folder while the block runs; `content` names the folder's content in the error.

    Raises:
        InUseError: the lock is held; the message names the process and its host.
        OSError: the folder cannot be written.
    """
    path, process = folder.absolute() / NAME, os.getpid()
    descriptor = _acquire(path, content)
    _held_descriptors.add(descriptor)
    _held_paths.add(str(path))
    try:
        yield
    finally:
        if os.getpid() == process:  # not in a child that was forked inside the block
            _held_paths.discard(str(path))
            with suppress(OSError):
                if _is_same_file(descriptor, path):  # not if the folder was removed and another process made a new one
                    path.unlink()  # before closing: a process that opened it meanwhile sees that it is gone
            _held_descriptors.discard(descriptor)
            os.close(descriptor)


def create_new_folder(parent: Path, stem: str) -> Path:
    """Create and return a new folder, `parent/stem` or the first unused of `parent/stem-2` ... Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    for name in itertools.chain([stem], (f"{stem}-{k}" for k in itertools.count(2))):
        with suppress(FileExistsError):
            (parent / name).mkdir()
            return parent / name
    raise AssertionError("counting has no end")


def _acquire(path: Path, content: str) -> int:
    """Return a descriptor that holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"{path} is not a file of its own: remove it")
            _lock(descriptor, path, content)
            if _is_same_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _description().encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder ended and removed it after it was opened here


def _lock(descriptor: int, path: Path, content: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = _OWNER.fullmatch(os.pread(descriptor, _MAX_BYTES, 0).decode(errors="replace").strip())
        if error.errno not in _UNSUPPORTED:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = owner[0] if owner else "another process"
            raise InUseError(f"{content} is under way: {holder} is at work on it") from None
        # Without locks, the file's content decides: a process of this host that still runs holds the lock.
        alive = (
            owner is not None and owner[2] == _host() and int(owner[1]) != os.getpid() and _is_running(int(owner[1]))
        )
        if owner is not None and (alive or str(path) in _held_paths):
            raise InUseError(f"{content} is under way: {owner[0]} is at work on it") from None


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Return True if the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _description() -> str:
    return f"process {os.getpid()} on {_host()} since {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n"


def _host() -> str:
    return "-".join(socket.gethostname().split())[:255] or "localhost"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _close_copies() -> None:
    """Close a forked child's copies of the descriptors, so that the lock ends with the parent."""
    for descriptor in _held_descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _held_descriptors.clear()
    _held_paths.clear()


os.register_at_fork(after_in_child=_close_copies)
