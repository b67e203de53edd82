"""The pool of a league: snapshots of agents, each a checkpoint that is never changed and is identified by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core import checkpoint
from rl_lab.core.agent import StateDict
from rl_lab.core.world import Array

FOLDER = "league"  # the name of the pool's folder in a run's folder
_KEEP_ALL = 2**31  # for `checkpoint.save`: more checkpoints than a learner can have


@dataclass(frozen=True, eq=False)
class Member:
    """A snapshot: the learner's name, the league's steps at that time, the SHA-256 of the parameters, and the state."""

    name: str
    step: int
    sha256: str
    saved: StateDict

    @property
    def title(self) -> str:
        """Return its name in metrics."""
        return f"{self.name}-{self.step}"

    @property
    def path(self) -> Path:
        """Return its path inside of a run's folder."""
        return Path(FOLDER) / self.name / f"step-{self.step:09d}"


def content_hash(tensors: Mapping[str, Mapping[str, Array]]) -> str:
    """Return the SHA-256, in hexadecimal, of the names, dtypes, shapes and bytes of all tensors, sorted by name.

    The bytes are hashed as little-endian and in C order, so the hash is the same on every machine.
    """
    digest = hashlib.sha256()
    for member in sorted(tensors):
        for name, array in sorted(tensors[member].items()):
            canonical = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{member}\0{name}\0{canonical.dtype.str}\0{array.shape}\0".encode())
            digest.update(canonical.tobytes())
    return digest.hexdigest()


class Pool:
    """Snapshots in the order in which they were taken. Where `run` is set, each is written to that folder once."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.run: Path | None = None  # the run's folder

    def freeze(self, name: str, step: int, saved: StateDict) -> Member:
        """Add a copy of an agent's state, and write it. Raises as `checkpoint.save` does."""
        tensors = {m: {k: _read_only_copy(a) for k, a in arrays.items()} for m, arrays in saved.tensors.items()}
        member = Member(name, step, content_hash(tensors), StateDict(tensors, dict(saved.state)))
        if self.run is not None:
            state = {**member.saved.state, "sha256": member.sha256}
            checkpoint.save((self.run / member.path).parent, step, tensors, state, keep_last=_KEEP_ALL)
        self.members.append(member)
        return member

    def entries(self) -> list[list[Any]]:
        """Return the name, step and hash of each snapshot, for JSON."""
        return [[member.name, member.step, member.sha256] for member in self.members]

    def reload_snapshots(self, entries: Any, names: list[str]) -> None:
        """Load the snapshots of a list that `entries` returned, of learners with these names, from the run's folder.

        Raises ValueError for a malformed list, and where a file does not have the hash in the list.
        """
        self.members = []
        checked: list[Any] = entries if isinstance(entries, list) else [None]
        for entry in checked:
            types = [type(value) for value in entry] if isinstance(entry, list) else []
            if types != [str, int, str] or entry[0] not in names or not 0 <= entry[1] < 10**18:
                raise ValueError("the league's list of snapshots is malformed")
            self.members.append(self._load(*entry))

    def _load(self, name: str, step: int, sha256: str) -> Member:
        if self.run is None:
            raise ValueError("the pool has no folder from which to load snapshots")
        path = Path(FOLDER) / name / f"step-{step:09d}"
        loaded = checkpoint.load(self.run / path)
        if content_hash(loaded.tensors) != sha256:
            raise ValueError(f"{path}: the parameters are not those of the snapshot (SHA-256 {sha256[:12]}...)")
        tensors = {m: {k: _read_only_copy(a) for k, a in arrays.items()} for m, arrays in loaded.tensors.items()}
        state = {key: value for key, value in loaded.state.items() if key != "sha256"}
        return Member(name, step, sha256, StateDict(tensors, state))


def _read_only_copy(array: Array) -> Array:
    copy = np.array(array)
    copy.setflags(write=False)
    return copy
