"""Machine code on disk that may be damaged: what cannot be read whole counts as absent, and is compiled again.

numba keeps the machine code of a function in an index (.nbi) and data files (.nbc), and trusts them. After a power cut
or on a full disk they may be empty, cut or wrong. So each gets a checksum at its end, and every failure to load drops
all files of the folder: the next start finds them made anew.
"""

from __future__ import annotations

import pickle
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_CHECKSUM = 4  # bytes


class DamagedCodeError(ValueError):
    """A file of compiled code is not what was written."""


def heal(store: Any) -> Any:
    """Make the cache of one of numba's functions treat damaged files as absent; return it."""
    load, save = store.load_overload, store.save_overload
    store._cache_file.__class__ = _checked_files()

    def load_overload(signature: Any, target: Any) -> Any:
        try:
            return load(signature, target)
        except Exception:  # whatever the damage looks like to pickle, to numba or to LLVM
            drop(Path(store.cache_path))
            return None

    def save_overload(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError:  # a full disk: this process runs what it compiled, the next one compiles again
            drop(Path(store.cache_path))

    store.load_overload, store.save_overload = load_overload, save_overload
    return store


def drop(folder: Path) -> None:
    """Remove the compiled code in a folder."""
    for file in (*folder.glob("*.nbi"), *folder.glob("*.nbc"), *folder.glob("*.pyc")):
        with suppress(OSError):
            file.unlink()


@cache
def _checked_files() -> Any:
    from numba.core.caching import IndexDataCacheFile

    class CheckedFiles(IndexDataCacheFile):  # type: ignore[misc]
        """Index and data files that end in a checksum; pickle ignores what follows its own end."""

        def _dump(self, obj: Any) -> bytes:
            data = bytes(super()._dump(obj))
            return data + _checksum(data)

        def _load_index(self) -> Any:
            with suppress(FileNotFoundError):
                self._look(self._index_path, len(pickle.dumps(self._version, protocol=-1)))
            return super()._load_index()

        def _load_data(self, name: str) -> Any:
            self._look(self._data_path(name), 0)
            return super()._load_data(name)

        def _look(self, path: str, first: int) -> None:
            data = Path(path).read_bytes()[first:]
            if data[-_CHECKSUM:] != _checksum(data[:-_CHECKSUM]):
                raise DamagedCodeError(path)

    return CheckedFiles


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data, 1).to_bytes(_CHECKSUM, "little")
