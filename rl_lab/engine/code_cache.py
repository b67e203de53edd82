"""This module makes numba's disk cache safe against damaged files: they count as absent, and are compiled again.

numba keeps the machine code of a function in an index (.nbi) and data files (.nbc), and trusts them. After a power
failure or on a full disk they may be empty, truncated or wrong. `drop_damaged_files` patches the cache object of one of
numba's functions: it appends a checksum to each file, and every failure to load removes all compiled files of the
folder.
"""

from __future__ import annotations

import pickle
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_CHECKSUM_BYTES = 4  # bytes


class DamagedCodeError(ValueError):
    """A file of compiled code is not what was written."""


def drop_damaged_files(numba_cache: Any) -> Any:
    """Patch the cache of one of numba's functions so that it removes damaged files and compiles again; return it."""
    load, save = numba_cache.load_overload, numba_cache.save_overload
    numba_cache._cache_file.__class__ = _checked_file_class()

    def load_overload(signature: Any, target: Any) -> Any:
        try:
            return load(signature, target)
        except Exception:  # whatever the damage looks like to pickle, to numba or to LLVM
            remove_compiled_files(Path(numba_cache.cache_path))
            return None

    def save_overload(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError:  # a full disk: this process runs what it compiled, the next one compiles again
            remove_compiled_files(Path(numba_cache.cache_path))

    numba_cache.load_overload, numba_cache.save_overload = load_overload, save_overload
    return numba_cache


def remove_compiled_files(folder: Path) -> None:
    """Remove the compiled code in a folder."""
    for file in (*folder.glob("*.nbi"), *folder.glob("*.nbc"), *folder.glob("*.pyc")):
        with suppress(OSError):
            file.unlink()


@cache
def _checked_file_class() -> Any:
    from numba.core.caching import IndexDataCacheFile

    class CheckedFiles(IndexDataCacheFile):  # type: ignore[misc]
        """Index and data files that end in a checksum; pickle ignores what follows its own end."""

        def _dump(self, obj: Any) -> bytes:
            data = bytes(super()._dump(obj))
            return data + _checksum(data)

        def _load_index(self) -> Any:
            with suppress(FileNotFoundError):
                self._verify_checksum(self._index_path, len(pickle.dumps(self._version, protocol=-1)))
            return super()._load_index()

        def _load_data(self, name: str) -> Any:
            self._verify_checksum(self._data_path(name), 0)
            return super()._load_data(name)

        def _verify_checksum(self, path: str, header_bytes: int) -> None:
            data = Path(path).read_bytes()[header_bytes:]
            if data[-_CHECKSUM_BYTES:] != _checksum(data[:-_CHECKSUM_BYTES]):
                raise DamagedCodeError(path)

    return CheckedFiles


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data, 1).to_bytes(_CHECKSUM_BYTES, "little")
