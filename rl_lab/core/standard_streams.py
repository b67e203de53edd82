"""This module protects a command from standard streams that are closed, full or no longer read.

A command calls `protect_standard_streams` at its start, which replaces sys.stdout and sys.stderr by a `SafeStream`, and
`flush_standard_streams` at its end. Output after the reader has gone (as in `rl-lab list | head`) is discarded.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_READER_GONE = {
    errno.EPIPE,
    errno.EIO,
    errno.EBADF,
    errno.ENXIO,
}  # errors of a stream whose reader or terminal has gone


class SafeStream:
    """A text stream that discards output once its reader has gone. `failure` holds the first error of another kind."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, or discard it; return its length."""
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._discard_output(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each text, or discard it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream, or discard what it holds."""
        try:
            self._stream.flush()
        except OSError as error:
            self._discard_output(error)

    def _discard_output(self, error: OSError) -> None:
        """Discard all further output of the stream, and record an error of another kind."""
        if error.errno not in _READER_GONE and self.failure is None:
            self.failure = error
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_standard_streams() -> None:
    """Wrap the process's standard streams in `SafeStream`; streams that a program has replaced are left alone.

    Closed descriptors 0, 1 and 2 are opened on the null device. Otherwise the next file to be opened would get such a
    number, and a library's messages would be written into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            if stream.errors == "strict":  # a file's name may have characters that the terminal's encoding lacks
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, SafeStream(stream))


def flush_standard_streams() -> OSError | None:
    """Flush both streams; return the error of standard output, or None if it has none or its reader has gone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return sys.stdout.failure if isinstance(sys.stdout, SafeStream) else None
