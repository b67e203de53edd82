"""Flat arrays of data sets in the user's cache folder: files in NumPy's format, which are mapped into memory.

A folder is named after the hash of the data, so that a data set which has been moved or copied is not read again. It
can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import platformdirs

from rl_lab.core.errors import UsageError, WorkFailed
from rl_lab.datasets import metadata, minari_format, spaces
from rl_lab.datasets.columns import STEP_COLUMNS, Array, Columns, ContentHash
from rl_lab.datasets.metadata import Metadata

_VERSION = "1"  # of the layout of these files
_BLOCK = 2**20  # bytes that are hashed at once


def root() -> Path:
    """Return the folder of all cached data sets."""
    return Path(platformdirs.user_cache_path("rl_lab")) / "datasets"


def open_columns(folder: Path, description: Metadata) -> tuple[Columns, str]:
    """Return a data set's columns, mapped read-only into memory, and the hash that its cache folder is named after.

    Raises:
        UsageError: the data are damaged.
        WorkFailed: the cache folder cannot be written.
    """
    key = description.content_hash or file_hash(folder)
    place = root() / f"{key}-{_kind(description)}"
    columns = _map_columns(place, description)
    if columns is None:
        try:
            _build(place, folder, description)
        except OSError as error:
            raise WorkFailed(f"cannot write {place}: {error.strerror or error}") from None
        columns = _map_columns(place, description)
    if columns is None:
        raise WorkFailed(f"{place} was damaged while it was read")
    return columns, key


def _kind(description: Metadata) -> str:
    """Return a hash of what the columns are checked against, which the hash of the data does not cover."""
    parts = [spaces.to_text(description.observation_space), spaces.to_text(description.action_space)]
    return hashlib.sha256(repr([_VERSION, description.mask_size, *parts]).encode()).hexdigest()[:8]


def file_hash(folder: Path) -> str:
    """Return the SHA-256 of the files of a data set that has no hash of its own. Raises UsageError."""
    digest = hashlib.sha256()
    try:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
            with open(file, "rb") as content:
                while block := content.read(_BLOCK):
                    digest.update(block)
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror or error}") from None
    return digest.hexdigest()


def _map_columns(place: Path, description: Metadata) -> Columns | None:
    """Return the columns in a cache folder; None where it is missing, damaged or of other data."""
    arrays: dict[str, Array] = {}
    for name, (shape, dtype) in description.layout().items():
        expected = (_rows(name, description), *shape)
        if 0 in expected:
            arrays[name] = np.zeros(expected, dtype)
            continue
        try:
            array = np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if array.shape != expected or array.dtype != dtype:
            return None
        arrays[name] = np.asarray(array)
    return Columns(**arrays)


def _rows(name: str, description: Metadata) -> int:
    return description.num_steps if name in STEP_COLUMNS else description.num_episodes


def _build(place: Path, folder: Path, description: Metadata) -> None:
    """Read all episodes and write the arrays; a folder gets its name when it is complete."""
    unfinished = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}.partial")
    unfinished.mkdir(parents=True)
    try:
        _write(unfinished, folder, description)
        with suppress(OSError):  # another process has written it meanwhile, or it is damaged
            os.rename(unfinished, place)
            return
        shutil.rmtree(place, ignore_errors=True)
        os.rename(unfinished, place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(place: Path, folder: Path, description: Metadata) -> None:
    digest, steps, episodes = ContentHash(), 0, 0
    with ExitStack() as stack:
        # Appended to rather than mapped: a full disk is then an OSError, and not the end of the process by SIGBUS.
        files = {name: stack.enter_context(open(place / f"{name}.npy", "wb")) for name in description.layout()}
        for name, (shape, dtype) in description.layout().items():
            descr, rows = np.lib.format.dtype_to_descr(dtype), _rows(name, description)
            header = {"descr": descr, "fortran_order": False, "shape": (rows, *shape)}
            np.lib.format.write_array_header_1_0(files[name], header)
        for part in minari_format.read_episodes(folder, description):
            digest.update(part)
            steps, episodes = steps + len(part.rewards), episodes + len(part.lengths)
            for name, file in files.items():
                file.write(np.ascontiguousarray(getattr(part, name)).data)
    if (steps, episodes) != (description.num_steps, description.num_episodes):
        raise UsageError(
            f"{folder / metadata.FILE} says {description.num_steps:,} steps in {description.num_episodes:,} episodes; "
            f"the files have other numbers"
        )
    if description.content_hash and digest.hexdigest() != description.content_hash:
        raise UsageError(
            f"{folder}: SHA-256 {digest.hexdigest()[:12]}..., not {description.content_hash[:12]}...: "
            "the data have changed since they were written"
        )
