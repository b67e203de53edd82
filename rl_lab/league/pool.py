"""The pool: agents as they were, frozen and known by what they are made of. Each is a checkpoint that never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint
from ..agent import Saved
from ..world import Array

FOLDER = "league"  # in a run's
_ALL = 2**31  # checkpoints of one learner that are kept


@dataclass(frozen=True, eq=False)
class Member:
    """A frozen agent: whose it was, at which of the league's steps, the SHA-256 of its parameters, and they."""

    name: str
    step: int
    sha256: str
    saved: Saved

    @property
    def title(self) -> str:
        """What it is called in metrics."""
        return f"{self.name}-{self.step}"

    @property
    def path(self) -> Path:
        """Where it is, inside a run's folder."""
        return Path(FOLDER) / self.name / f"step-{self.step:09d}"


def content_hash(tensors: Mapping[str, Mapping[str, Array]]) -> str:
    """Return the SHA-256, in hexadecimal, over names, types, shapes and bytes of all tensors, in order of their names.

    The bytes are little-endian and in C order, so the hash is the same on every machine.
    """
    digest = hashlib.sha256()
    for member in sorted(tensors):
        for name, array in sorted(tensors[member].items()):
            plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{member}\0{name}\0{plain.dtype.str}\0{array.shape}\0".encode())
            digest.update(plain.tobytes())
    return digest.hexdigest()


class Pool:
    """Frozen agents in the order in which they were frozen; with a folder, each is written there once."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.run: Path | None = None  # the run's folder

    def freeze(self, name: str, step: int, saved: Saved) -> Member:
        """Add a copy of an agent and write it. Raises as `checkpoint.save` does."""
        tensors = {m: {k: _frozen(a) for k, a in arrays.items()} for m, arrays in saved.tensors.items()}
        member = Member(name, step, content_hash(tensors), Saved(tensors, dict(saved.state)))
        if self.run is not None:
            state = {**member.saved.state, "sha256": member.sha256}
            checkpoint.save((self.run / member.path).parent, step, tensors, state, keep_last=_ALL)
        self.members.append(member)
        return member

    def listed(self) -> list[list[Any]]:
        """Return of each member its name, step and hash, as JSON holds them."""
        return [[member.name, member.step, member.sha256] for member in self.members]

    def recall(self, listed: Any, names: list[str]) -> None:
        """Take up again the members of a list, of learners of these names, from the folder.

        Raises ValueError for a list that is none, or where a file is not what was frozen.
        """
        self.members = []
        entries: list[Any] = listed if isinstance(listed, list) else [None]
        for entry in entries:
            kinds = [type(value) for value in entry] if isinstance(entry, list) else []
            if kinds != [str, int, str] or entry[0] not in names or not 0 <= entry[1] < 10**18:
                raise ValueError("its list of the pool's members is none")
            self.members.append(self._load(*entry))

    def _load(self, name: str, step: int, sha256: str) -> Member:
        if self.run is None:
            raise ValueError("a pool without a folder holds nothing to go on from")
        place = Path(FOLDER) / name / f"step-{step:09d}"
        found = checkpoint.load(self.run / place)
        if content_hash(found.tensors) != sha256:
            raise ValueError(f"{place}: its parameters are not those that were frozen (SHA-256 {sha256[:12]}...)")
        tensors = {m: {k: _frozen(a) for k, a in arrays.items()} for m, arrays in found.tensors.items()}
        state = {key: value for key, value in found.state.items() if key != "sha256"}
        return Member(name, step, sha256, Saved(tensors, state))


def _frozen(array: Array) -> Array:
    copy = np.array(array)
    copy.setflags(write=False)
    return copy
