"""This module packs files for a process that may run on a machine without them, and unpacks them there.

`PackedFiles.unpack` writes to the user's cache folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import platformdirs

from rl_lab.core.errors import UsageError
from rl_lab.core.files import atomic_write_bytes


@dataclass(frozen=True)
class PackedFiles:
    """The contents of files by their paths below one folder, with / between the parts."""

    contents: dict[str, bytes]

    @classmethod
    def read(cls, folder: Path, files: Iterable[Path]) -> PackedFiles:
        """Return these files, which lie in the folder. Raises UsageError where one cannot be read."""
        contents = {}
        for file in files:
            try:
                contents[file.relative_to(folder).as_posix()] = file.read_bytes()
            except OSError as error:
                raise UsageError(f"cannot read {file}: {error.strerror}") from None
        return cls(contents)

    def unpack(self) -> Path:
        """Return a folder in the user's cache that has these files; it is named after their paths and contents.

        Raises:
            ValueError: a path leads out of that folder; nothing is written.
        """
        for name in map(PurePosixPath, self.contents):
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{name} would be written outside of the folder of the packed files")
        hashes = sorted((path, hashlib.sha256(content).hexdigest()) for path, content in self.contents.items())
        folder = Path(platformdirs.user_cache_path("rl_lab")) / "packed_files"
        folder /= hashlib.sha256(repr(hashes).encode()).hexdigest()
        for path, content in self.contents.items():
            file = folder / path
            if not (file.is_file() and file.read_bytes() == content):
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                atomic_write_bytes(file, content)
        return folder
