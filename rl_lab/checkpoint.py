"""Whole-state checkpoints: written crash-safe, checked before they are believed, never pickled.

A checkpoint is a folder `step-000000123/`: one `<member>.safetensors` for each group of tensors, `state.json`
for everything else, and `manifest.json`, written last, with the size and SHA-256 of each. A crash leaves the
old checkpoint or the new one, nothing in between. Reading one runs no code from it. POSIX only.
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

Tensors = dict[str, NDArray[Any]]

_FORMAT = {"format": "rl_lab.checkpoint", "version": 1}
_MANIFEST, _STATE, _TENSORS, _TEMP, _OLD = "manifest.json", "state.json", ".safetensors", ".tmp-", ".old"
_STEP = re.compile(r"step-([0-9]{9,18})(\.old)?")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_.-]*")  # lower case: two names never meet on any file system
_DTYPES = "?bBhHiIlLqQefdF"  # numpy's characters for what safetensors holds, in either byte order


class CheckpointError(ValueError):
    """A checkpoint is damaged, foreign or hostile; the message is one line with the file and the reason."""


class CheckpointWriteError(OSError):
    """A checkpoint was not written; the message is one line with the cause, what is left and what to do."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What `load` read: tensors by member and name (native byte order, writable), and the JSON state."""

    path: Path
    step: int
    tensors: dict[str, Tensors]
    state: dict[str, Any]


def points(members: Iterable[str]) -> tuple[str, ...]:
    """Name, in order, the points of a save of these members at which a test may stop the process."""
    written = [f"member-written:{file}" for file in sorted([_STATE, *(name + _TENSORS for name in members)])]
    after = "manifest-written temp-synced set-aside renamed parent-synced prune-renamed pruned"
    return "temp-created", *written, *after.split()


def _at(point: str) -> None:
    """Do nothing; a test replaces this function to stop at a named point."""


def save(folder: Path, step: int, tensors: Mapping[str, Tensors], state: dict[str, Any], *, keep_last: int = 3) -> Path:
    """Write `folder/step-<step>`, keep the last `keep_last` up to it, and return its path.

    Tensors have any shape and layout and a boolean, integer, float or complex64 dtype. Tuples in `state` come
    back as lists. Later steps are left alone. The same step is replaced, the old one whole until the new is.

    Raises:
        TypeError: a tensor or a value of the state has a type that cannot be stored; names its key.
        ValueError: a float of the state is not finite (names its key), or a name or number is out of range.
        CheckpointWriteError: the disk refused; the checkpoints that were there are untouched.
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
            with suppress(OSError):  # a file system without locks is good enough for one run
                fcntl.flock(lock, fcntl.LOCK_EX)
            for stale in folder.glob(f"{_TEMP}*"):  # of a dead saver: a live one holds the lock
                shutil.rmtree(stale, ignore_errors=True)
            _put(temp, final, int(step), tensors, state)
            with suppress(OSError):  # the new checkpoint is safe; what cannot go now goes at the next save
                _prune(temp, final, keep_last)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
            os.close(lock)
    except OSError as error:
        raise _write_error(final, error) from error
    return final


def load(path: Path) -> Checkpoint:
    """Read a checkpoint's folder; raises CheckpointError unless all of it agrees with its manifest."""
    path = Path(os.path.abspath(path))
    manifest = _verify(path)
    tensors, state = {}, {}
    for file in manifest["members"]:
        try:
            if file == _STATE:
                state = {**json.loads((path / file).read_bytes())}
                _check_state(state, "state")
            else:
                tensors[file.removesuffix(_TENSORS)] = safetensors.numpy.load_file(path / file)
        except Exception as error:  # a hostile file makes these libraries raise errors of many kinds
            raise _refusal(path, file, f"is unreadable: {error}") from error
    return Checkpoint(path, manifest["step"], tensors, state)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest valid checkpoint, or None, and why each newer one was skipped, newest first."""
    faults: list[str] = []
    for path in _found(Path(folder)):
        try:
            return load(path), faults
        except CheckpointError as error:
            faults.append(str(error))
    return None, faults


def _put(temp: Path, final: Path, step: int, tensors: Mapping[str, Tensors], state: dict[str, Any]) -> None:
    """Write a complete checkpoint under a temporary name, then give it its own."""
    temp.mkdir()
    _at("temp-created")
    members = {}
    for file, member in sorted([(_STATE, ""), *((name + _TENSORS, name) for name in tensors)]):
        members[file] = _write(temp / file, _pack(member, tensors[member]) if member else _dump(state))
        _at(f"member-written:{file}")
    manifest = _dump({**_FORMAT, "step": step, "members": members})
    _write(temp / _MANIFEST, manifest)
    _at("manifest-written")
    _sync(temp)
    _at("temp-synced")
    if os.path.lexists(final):
        with suppress(CheckpointError, OSError):
            if (final / _MANIFEST).read_bytes() == manifest and _verify(final):
                return
        old = f"{final}{_OLD}"  # a name that `latest` still reads, until the new one is in place
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
        _at("set-aside")
    os.rename(temp, final)
    _at("renamed")
    _sync(final.parent)
    _at("parent-synced")


def _prune(temp: Path, final: Path, keep_last: int) -> None:
    """Remove what is replaced or too old, first giving it a name that nothing takes for a checkpoint's."""
    found = _found(final.parent)
    replaced = [path for path in found if path.suffix == _OLD and path.with_suffix("") in found]
    older = [path for path in found[found.index(final) :] if path not in replaced]
    doomed = {path: f"{temp}-{path.name}" for path in replaced + older[keep_last:]}
    for path, trash in doomed.items():
        os.rename(path, trash)
    _sync(final.parent)  # the new names reach the disk before any member leaves it
    _at("prune-renamed")
    for trash in doomed.values():
        shutil.rmtree(trash, ignore_errors=True)
    _at("pruned")


def _write(path: Path, data: bytes) -> dict[str, Any]:
    """Write and sync a file; return its entry in the manifest."""
    path.write_bytes(data)
    _sync(path)
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def _pack(member: str, arrays: Tensors) -> bytes:
    plain = {}
    for name, array in arrays.items():
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        if not isinstance(kind, np.dtype) or kind.char not in _DTYPES:
            raise TypeError(f"{member}[{name!r}]: {kind} is not an array type that can be stored")
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"{member}[{name!r}]: the name must be a string other than '__metadata__'")
        plain[name] = np.asarray(array, dtype=kind.newbyteorder("<"), order="C")
    return safetensors.numpy.save(plain)


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
    """Return the manifest that a checkpoint's own name and files call for; raise unless it has that one."""
    try:
        named = _STEP.fullmatch(path.name)
        if named is None or path.is_symlink():
            raise _refusal(path, ".", "is a link, or not named like a checkpoint")
        members = {}
        for file in sorted(os.listdir(path)):
            info = (path / file).lstat()
            if not stat.S_ISREG(info.st_mode):
                raise _refusal(path, file, "is a link, a folder or a device, not a file")
            with (path / file).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            members[file] = {"sha256": digest, "size": info.st_size}
        for file in sorted({_MANIFEST, _STATE} - members.keys()):
            raise _refusal(path, file, "is missing")
        del members[_MANIFEST]
        truth = {**_FORMAT, "step": int(named[1]), "members": members}
        claim = (path / _MANIFEST).read_bytes()
        if claim != _dump(truth):
            raise _refusal(path, *_difference(claim, truth))
    except OSError as error:
        raise _refusal(path, ".", f"cannot be read: {error}") from error
    return truth


def _difference(claim: bytes, truth: dict[str, Any]) -> tuple[str, str]:
    """Name the file and the reason why a manifest is not the true one; nothing that it says is followed."""
    try:
        said = json.loads(claim)
        for key in (*_FORMAT, "step"):
            if said[key] != truth[key]:
                return _MANIFEST, f"has the unknown {key} {said[key]!r:.40}, not {truth[key]!r}"
        for file in sorted(said["members"].keys() | truth["members"].keys()):
            told, real = said["members"].get(file), truth["members"].get(file)
            if told is None:
                return file, f"is not named in {_MANIFEST}"
            if file != _STATE and not (_MEMBER.fullmatch(file) and file.endswith(_TENSORS)):
                return _MANIFEST, f"names {file!r:.80}, which is not a plain member name"
            if real is None:
                return file, "is missing"
            if real["size"] < told["size"]:
                return file, f"is truncated: {real['size']} of {told['size']} bytes"
            if told != real:
                return file, "does not match its manifest"
    except Exception as error:  # a hostile manifest may be anything, anywhere
        return _MANIFEST, f"is unreadable: {error!r:.200}"
    return _MANIFEST, "is not as it was written"


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _found(folder: Path) -> list[Path]:
    """List what is named like a checkpoint, newest first; one set aside comes after its replacement."""
    names = filter(_STEP.fullmatch, os.listdir(folder) if folder.exists() else ())
    return [folder / n for n in sorted(names, key=lambda n: (-int(n[5:].removesuffix(_OLD)), n))]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(path: Path, file: str, reason: str) -> CheckpointError:
    text = f"{path.name}/{file}: {reason}"
    return CheckpointError("".join(char if char.isprintable() else " " for char in text))


def _write_error(final: Path, error: OSError) -> CheckpointWriteError:
    kept = "no earlier checkpoint is there"
    with suppress(OSError):
        for path in _found(final.parent):
            with suppress(CheckpointError):
                _verify(path)
                kept = f"the last good checkpoint, {path.name}, is untouched"
                break
    cure = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make the folder writable"
    fault = f"cannot save {final.name} in {final.parent}: {error.strerror or error}"
    return CheckpointWriteError(f"{fault}; {kept}; {cure}, then `rl-lab resume {final.parent.parent}`")
