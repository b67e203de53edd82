"""The pool of a league: snapshots of agents in memory and, once a run's folder is set, as checkpoints in it.

A snapshot is never changed, and is identified by the hash of its parameters. `League` adds snapshots and reloads them
when a run resumes. Files: `league/LEARNER/step-NNNNNNNNN/` in the run's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core import checkpoint
from rl_lab.core.agent import StateDict
from rl_lab.core.content_hash import content_hash
from rl_lab.core.world import Array

POOL_FOLDER = "league"  # the pool's folder in a run's folder
_KEEP_ALL = 2**31  # for `checkpoint.save`: more checkpoints than a learner can have


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A learner's agent as it was at some step."""

    name: str  # of the learner
    step: int  # environment steps of the whole league so far
    sha256: str  # `content_hash` of the parameters
    state_dict: StateDict  # what `Learner.save_agent` returned; its arrays are read-only

    @property
    def path(self) -> Path:
        """Return the path of its checkpoint inside of a run's folder."""
        return Path(POOL_FOLDER) / self.name / f"step-{self.step:09d}"


class SnapshotPool:
    """Snapshots in the order in which they were taken. Where `run_dir` is set, each is written to that folder once."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.run_dir: Path | None = None

    def freeze(self, name: str, step: int, state_dict: StateDict) -> Snapshot:
        """Add a read-only copy of an agent's state, write it to `run_dir`, and return it.

        Raises as `checkpoint.save` does.
        """
        tensors = {m: {k: _read_only_copy(a) for k, a in arrays.items()} for m, arrays in state_dict.tensors.items()}
        snapshot = Snapshot(name, step, content_hash(tensors), StateDict(tensors, dict(state_dict.state)))
        if self.run_dir is not None:
            state = {**snapshot.state_dict.state, "sha256": snapshot.sha256}
            checkpoint.save((self.run_dir / snapshot.path).parent, step, tensors, state, keep_last=_KEEP_ALL)
        self.snapshots.append(snapshot)
        return snapshot

    def entries(self) -> list[list[Any]]:
        """Return the name, step and hash of each snapshot, for JSON."""
        return [[snapshot.name, snapshot.step, snapshot.sha256] for snapshot in self.snapshots]

    def reload_snapshots(self, entries: Any, names: list[str]) -> None:
        """Load the snapshots of a list that `entries` returned, of learners with these names, from the run's folder.

        Raises ValueError for a malformed list, and where a file does not have the hash in the list.
        """
        self.snapshots = []
        checked: list[Any] = entries if isinstance(entries, list) else [None]
        for entry in checked:
            types = [type(value) for value in entry] if isinstance(entry, list) else []
            if types != [str, int, str] or entry[0] not in names or not 0 <= entry[1] < 10**18:
                raise ValueError("the league's list of snapshots is malformed")
            self.snapshots.append(self._load(*entry))

    def _load(self, name: str, step: int, sha256: str) -> Snapshot:
        if self.run_dir is None:
            raise ValueError("the pool has no folder from which to load snapshots")
        path = Path(POOL_FOLDER) / name / f"step-{step:09d}"
        loaded = checkpoint.load(self.run_dir / path)
        if content_hash(loaded.tensors) != sha256:
            raise ValueError(f"{path}: the parameters are not those of the snapshot (SHA-256 {sha256[:12]}...)")
        tensors = {m: {k: _read_only_copy(a) for k, a in arrays.items()} for m, arrays in loaded.tensors.items()}
        state = {key: value for key, value in loaded.state.items() if key != "sha256"}
        return Snapshot(name, step, sha256, StateDict(tensors, state))


def _read_only_copy(array: Array) -> Array:
    copy = np.array(array)
    copy.setflags(write=False)
    return copy
