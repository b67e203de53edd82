"""The environments of all learners of a league as one object, which the trainer saves, restores and closes.

`experiments.build` makes a `JointEnvs`. Nothing is stepped here: each learner steps its own environments.
"""

from __future__ import annotations

from typing import Any

from rl_lab.core.world import Array
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

_SEPARATOR = "."  # between the name of a learner and the name of an array; names of learners do not contain it


class JointEnvs:
    """The environments of each learner by its name, with those methods of `BatchedEnv` that the trainer uses."""

    def __init__(self, envs: dict[str, OpponentsWrapper]) -> None:
        self.envs = envs
        self._first = next(iter(envs.values()))

    @property
    def world(self) -> Any:
        """Return the spec of a learner's environments, which is the same for all learners."""
        return self._first.world

    @property
    def batch(self) -> Any:
        """Return a learner's batch with all agents, whose `world` is the full spec."""
        return self._first.batch

    def snapshot(self) -> dict[str, Array]:
        """Return the snapshots of all learners' environments, with the learner's name in front of each key."""
        return {f"{name}{_SEPARATOR}{k}": v for name, envs in self.envs.items() for k, v in envs.snapshot().items()}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Restore a `snapshot`. Raises ValueError, naming the array, where it does not fit."""
        for name, envs in self.envs.items():
            prefix = name + _SEPARATOR
            envs.restore({k.removeprefix(prefix): v for k, v in snapshot.items() if k.startswith(prefix)})

    def drain_log(self) -> dict[str, float]:
        """See `Batch.drain_log`; each name has the learner's name in front."""
        return {f"{name}/{k}": v for name, envs in self.envs.items() for k, v in envs.drain_log().items()}

    def close(self) -> None:
        """Close the environments of all learners."""
        for envs in self.envs.values():
            envs.close()
