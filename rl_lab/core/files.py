"""This module writes files atomically: a file gets its name when it is complete, and unfinished files are removed.

All functions write to the disk. Unfinished files are named NAME.xxxxxxxx.partial, and locked by their writer.
"""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rl_lab.core.errors import UsageError

_UNFINISHED = re.compile(r".+\.[0-9a-f]{8}\.partial")


@contextmanager
def partial(path: Path) -> Iterator[Path]:
    """Yield a new empty file beside `path` to write to and rename; if it is not renamed, it is removed at the end.

    While the block runs, the file is locked with `flock`, and `clear` does not remove locked files. Its name has
    another extension than `path`, so that programs which list videos or tables do not find an unfinished one.
    """
    while True:
        unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if unfinished.exists():  # otherwise another process has removed it before it was locked
            break
        os.close(descriptor)
    try:
        yield unfinished
    finally:
        os.close(descriptor)
        unfinished.unlink(missing_ok=True)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: its name has the old content or the new one, never a part, even after a power failure.

    The function waits for the disk, so it is meant for files that are written once, not at every step. Raises OSError.
    """
    with partial(path) as unfinished:
        unfinished.write_bytes(data)
        sync(unfinished)
        unfinished.replace(path)
        with suppress(OSError):  # some file systems do not sync folders; the file is written all the same
            sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: Path, option: str) -> None:
    """Create a folder and check that files can be written in it, before the work starts. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial(folder / "x"):
            pass
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{option} {folder}: cannot write there: {getattr(error, 'strerror', None) or error}"
        ) from None


def clear(folder: Path) -> None:
    """Remove from a folder the unfinished files whose writers have ended; do nothing for a missing folder."""
    for name in filter(_UNFINISHED.fullmatch, os.listdir(folder) if folder.is_dir() else ()):
        with suppress(OSError):  # a writer holds its lock, or it was removed already
            _remove_if_free(os.path.join(folder, name))


def _remove_if_free(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(descriptor)
