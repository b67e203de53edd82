"""This module collects what entrants that are user code print, in the file `entrants.log` of the tournament's folder.

A worker process writes its standard output and standard error to the pipe of an `EntrantOutput`; the main process reads
it between matches (`drain`) and appends the text to the file, without control characters. Nothing of it reaches the
terminal.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

LOG_NAME = "entrants.log"
_MAX_FILE_BYTES = 2**20  # what is printed after them is dropped
_CHUNK_BYTES = 2**16  # that are read at a time


class EntrantOutput:
    """A pipe that a worker process writes its standard output and standard error to.

    `file` receives the text; with None it is dropped. The text in the file is complete once the process has ended.
    """

    def __init__(self, context: Any, file: Path | None) -> None:
        self.reader, self.writer = context.Pipe(duplex=False)
        os.set_blocking(self.reader.fileno(), False)
        self._file = file

    def drain(self) -> None:
        """Append what has been written since the last call to the file."""
        with suppress(OSError):  # BlockingIOError: nothing is there
            if (text := os.read(self.reader.fileno(), _CHUNK_BYTES)) and self._file is not None:
                append(self._file, text)

    def close(self) -> None:
        """Read what is left, at most one pipe of it, and close both ends."""
        self.drain()
        for end in (self.reader, self.writer):
            end.close()


def append(file: Path, text: bytes) -> None:
    """Append what entrants have printed to a file, without control characters, until the file has its maximal size."""
    bytes_left = _MAX_FILE_BYTES - (file.stat().st_size if file.exists() else 0)
    if bytes_left > 0:
        with file.open("ab") as log:
            log.write(without_control_characters(text).encode()[:bytes_left])


def without_control_characters(text: bytes) -> str:
    """Return a text without control characters but for the ends of lines."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.decode(errors="replace").expandtabs())


def redirect(writer: Any) -> None:
    """Write this process's standard output and standard error to the pipe from now on."""
    for descriptor in (1, 2):
        os.dup2(writer.fileno(), descriptor)
    writer.close()
