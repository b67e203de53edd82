"""This module writes and reads whole-state checkpoints: crash-safe, verified when read, never pickled.

A checkpoint is a folder `step-000000123/`: one `<name>.safetensors` for each group of tensors, `state.json` for
everything else, and `manifest.json`, written last, with the size and SHA-256 of each of these files, which it calls
members. Callers name a member without the suffix. A crash leaves the old checkpoint or the new one, never a mixture.
Reading one runs no code from it. POSIX only.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from rl_lab.core.errors import WorkFailed
from rl_lab.core.files import sync
from rl_lab.core.untrusted import checked_type, read_json

Tensors = dict[str, NDArray[Any]]

_FORMAT = {"format": "rl_lab.checkpoint", "version": 2}
_OLD_FORMATS = {1: "rl_lab 0.1"}  # earlier formats, and what reads them
_MANIFEST, _STATE, _TENSORS, _TEMP, _OLD = "manifest.json", "state.json", ".safetensors", ".tmp-", ".old"
_LARGEST_MANIFEST, _LARGEST_STATE = 2**20, 2**26  # bytes; larger files are refused
_STEP = re.compile(r"step-([0-9]{9,18})(\.old)?")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_.-]*")  # lower case, for file systems that do not distinguish case
_DTYPES = "?bBhHiIlLqQefdF"  # numpy's characters of the dtypes that safetensors can store, in either byte order


class CheckpointError(WorkFailed, ValueError):
    """A checkpoint is damaged or not valid; the message is one line with the file and the reason."""


class CheckpointWriteError(OSError):
    """A checkpoint was not written; the message is one line with the cause, the last good one and the remedy."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A Checkpoint is what `load` returns: tensors by member and name (native byte order, writable), and JSON state."""

    path: Path
    step: int
    tensors: dict[str, Tensors]
    state: dict[str, Any]


def crash_points(members: Iterable[str]) -> tuple[str, ...]:
    """Return, in order, the names of the points of a save at which a test may stop the process."""
    member_points = [f"member-written:{file}" for file in sorted([_STATE, *(name + _TENSORS for name in members)])]
    later_points = "manifest-written temp-synced set-aside renamed parent-synced prune-renamed pruned"
    return "temp-created", *member_points, *later_points.split()


def at_crash_point(point: str) -> None:
    """Do nothing; a test replaces this function to stop the process at a named point."""


def save(folder: Path, step: int, tensors: Mapping[str, Tensors], state: dict[str, Any], *, keep_last: int = 3) -> Path:
    """Write `folder/step-<step>`, keep the last `keep_last` checkpoints up to that step, and return its path.

    Tensors have any shape and layout and a boolean, integer, float or complex64 dtype. Tuples in `state` are read
    back as lists. Checkpoints of later steps are left alone. A checkpoint of the same step is replaced, and stays
    complete until the new one is.

    Raises:
        TypeError: a tensor or a value of the state has a type that cannot be stored; the message names its key.
        ValueError: a float of the state is not finite (the message names its key), or a name or number is out of range.
        CheckpointWriteError: writing failed; earlier checkpoints are untouched.
    """
    if not 0 <= step < 10**18 or keep_last < 1:
        raise ValueError(f"step must be >= 0 and keep_last >= 1, not {step} and {keep_last}")
    if not all(map(_MEMBER.fullmatch, tensors)):
        raise ValueError(f"member names are lower-case letters, digits, _ . and -, not all of {[*tensors]}")
    _check_state(state, "state")
    folder, final = Path(folder), Path(folder) / f"step-{step:09d}"
    temp = folder / f"{_TEMP}{os.urandom(8).hex()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks still works for one run
                fcntl.flock(lock, fcntl.LOCK_EX)
            for stale in folder.glob(f"{_TEMP}*"):  # left by a process that died: a live one holds the lock
                shutil.rmtree(stale, ignore_errors=True)
            _write_checkpoint(temp, final, int(step), tensors, state)
            with suppress(OSError):  # the new checkpoint is complete; the next save removes what is left
                _prune(temp, final, keep_last)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
            os.close(lock)
    except OSError as error:
        raise _write_error(final, error) from error
    return final


def load(path: Path) -> Checkpoint:
    """Read a checkpoint's folder. Raises CheckpointError where a file does not agree with the manifest."""
    path = Path(os.path.abspath(path))
    manifest = _verify(path)
    tensors, state = {}, {}
    for file in manifest["members"]:
        try:
            if file == _STATE:
                state = checked_type(read_json(path / file, _LARGEST_STATE), "it", dict)
                _check_state(state, "state")
            else:
                tensors[file.removesuffix(_TENSORS)] = safetensors.numpy.load_file(path / file)
        except Exception as error:  # a damaged file makes these libraries raise errors of many kinds
            raise _refusal(path, file, f"is unreadable: {error}") from error
    return Checkpoint(path, manifest["step"], tensors, state)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest valid checkpoint, or None, and the reasons why newer ones were skipped, newest first."""
    skipped: list[str] = []
    for path in _list_checkpoints(Path(folder)):
        try:
            return load(path), skipped
        except CheckpointError as error:
            skipped.append(str(error))
    return None, skipped


def _write_checkpoint(
    temp: Path, final: Path, step: int, tensors: Mapping[str, Tensors], state: dict[str, Any]
) -> None:
    """Write a complete checkpoint under a temporary name, then rename it."""
    temp.mkdir()
    at_crash_point("temp-created")
    members = {}
    for file, member in sorted([(_STATE, ""), *((name + _TENSORS, name) for name in tensors)]):
        members[file] = _write(temp / file, _pack(member, tensors[member]) if member else _dump(state))
        at_crash_point(f"member-written:{file}")
    manifest = _dump({**_FORMAT, "step": step, "members": members})
    _write(temp / _MANIFEST, manifest)
    at_crash_point("manifest-written")
    sync(temp)
    at_crash_point("temp-synced")
    if os.path.lexists(final):
        with suppress(CheckpointError, OSError):
            if (final / _MANIFEST).read_bytes() == manifest and _verify(final):
                return
        old = f"{final}{_OLD}"  # a name that `latest` still reads, until the new one is in place
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
        at_crash_point("set-aside")
    os.rename(temp, final)
    at_crash_point("renamed")
    sync(final.parent)
    at_crash_point("parent-synced")


def _prune(temp: Path, final: Path, keep_last: int) -> None:
    """Remove replaced and old checkpoints; each is first renamed so that it is no longer read as a checkpoint.

    The new names begin with `.tmp-`, as that of `temp` does, so the next save removes what a crash leaves of them.
    """
    paths = _list_checkpoints(final.parent)
    replaced = [path for path in paths if path.suffix == _OLD and path.with_suffix("") in paths]
    older = [path for path in paths[paths.index(final) :] if path not in replaced]
    trash_names = {path: f"{temp}-{path.name}" for path in replaced + older[keep_last:]}
    for path, trash in trash_names.items():
        os.rename(path, trash)
    sync(final.parent)  # the new names reach the disk before any member is removed
    at_crash_point("prune-renamed")
    for trash in trash_names.values():
        shutil.rmtree(trash, ignore_errors=True)
    at_crash_point("pruned")


def _write(path: Path, data: bytes) -> dict[str, Any]:
    """Write and sync a file; return its entry in the manifest."""
    path.write_bytes(data)
    sync(path)
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _pack(member: str, arrays: Tensors) -> bytes:
    contiguous = {}
    for name, array in arrays.items():
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        if not isinstance(kind, np.dtype) or kind.char not in _DTYPES:
            raise TypeError(f"{member}[{name!r}]: {kind} is not an array type that can be stored")
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"{member}[{name!r}]: the name must be a string other than '__metadata__'")
        contiguous[name] = np.asarray(array, dtype=kind.newbyteorder("<"), order="C")
    return safetensors.numpy.save(contiguous)


def _check_state(value: object, where: str) -> None:
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}, which is not a string")
            if type(item) not in (int, str, bool):  # saves naming each element of a long list
                _check_state(item, f"{where}[{key!r}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, not a finite number")
    elif not isinstance(value, int | float | str | None):
        raise TypeError(f"{where} is of type {type(value).__name__}, which JSON does not have")


def _verify(path: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest. Raises CheckpointError where it differs from the folder's name and files."""
    try:
        match = _STEP.fullmatch(path.name)
        if match is None or path.is_symlink():
            raise _refusal(path, ".", "is a link, or not named like a checkpoint")
        files = {}
        for file in sorted(os.listdir(path)):
            info = (path / file).lstat()
            if not stat.S_ISREG(info.st_mode):
                raise _refusal(path, file, "is a link, a folder or a device, not a file")
            with (path / file).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[file] = {"sha256": digest, "size": info.st_size}
        for file in sorted({_MANIFEST, _STATE} - files.keys()):
            raise _refusal(path, file, "is missing")
        del files[_MANIFEST]
        actual = {**_FORMAT, "step": int(match[1]), "members": files}  # a manifest of the files as they are
        with (path / _MANIFEST).open("rb") as stream:
            stored = stream.read(_LARGEST_MANIFEST)
        if stored != _dump(actual):
            raise _refusal(path, *_difference(stored, actual))
    except OSError as error:
        raise _refusal(path, ".", f"cannot be read: {error}") from error
    return actual


def _difference(stored: bytes, actual: dict[str, Any]) -> tuple[str, str]:
    """Return the file, and the reason, for which the stored manifest differs from the actual one, of the files.

    No path in the stored manifest is opened.
    """
    try:
        manifest = json.loads(stored)
        for key in (*_FORMAT, "step"):
            if key == "version" and type(manifest[key]) is int and manifest[key] in _OLD_FORMATS:
                reader = _OLD_FORMATS[manifest[key]]
                text = f"has format {manifest[key]}, which {reader} reads"
                return _MANIFEST, f"{text}; this version reads {actual[key]}"
            if manifest[key] != actual[key]:
                return _MANIFEST, f"has the unknown {key} {manifest[key]!r:.40}, not {actual[key]!r}"
        for file in sorted(manifest["members"].keys() | actual["members"].keys()):
            stored_entry, actual_entry = manifest["members"].get(file), actual["members"].get(file)
            if stored_entry is None:
                return file, f"is not named in {_MANIFEST}"
            if file != _STATE and not (_MEMBER.fullmatch(file) and file.endswith(_TENSORS)):
                return _MANIFEST, f"names {file!r:.80}, which is not a plain member name"
            if actual_entry is None:
                return file, "is missing"
            if actual_entry["size"] < stored_entry["size"]:
                return file, f"is truncated: {actual_entry['size']} of {stored_entry['size']} bytes"
            if stored_entry != actual_entry:
                return file, "does not match its manifest"
    except Exception as error:  # any part of a damaged manifest may have any type
        return _MANIFEST, f"is unreadable: {error!r:.200}"
    return _MANIFEST, "is not as it was written"


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _list_checkpoints(folder: Path) -> list[Path]:
    """Return the paths named like checkpoints, newest first; an `.old` one comes after its replacement."""
    names = filter(_STEP.fullmatch, os.listdir(folder) if folder.exists() else ())
    return [folder / n for n in sorted(names, key=lambda n: (-int(n[5:].removesuffix(_OLD)), n))]


def _refusal(path: Path, file: str, reason: str) -> CheckpointError:
    text = f"{path.name}/{file}: {reason}"
    return CheckpointError("".join(char if char.isprintable() else " " for char in text))


def _write_error(final: Path, error: OSError) -> CheckpointWriteError:
    earlier = "no earlier checkpoint is there"
    with suppress(OSError):
        for path in _list_checkpoints(final.parent):
            with suppress(CheckpointError):
                _verify(path)
                earlier = f"the last good checkpoint, {path.name}, is untouched"
                break
    remedy = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make the folder writable"
    fault = f"cannot save {final.name} in {final.parent}: {error.strerror or error}"
    return CheckpointWriteError(f"{fault}; {earlier}; {remedy}, then `rl-lab resume {final.parent.parent}`")
