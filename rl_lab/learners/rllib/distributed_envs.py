"""The environments of a training that are divided among env runners, as the training loop sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rl_lab.core.env_recipe import EnvRecipe
from rl_lab.core.world import Array


class DistributedEnvs:
    """Has the snapshots and logs that env runners return with each fragment; the environments are in the runners.

    World i of the training is the same world, with the same random stream, however many runners share them. Part k of
    them is restored from its last snapshot where a runner was lost, so that its replacement continues the episodes.

    Args:
        recipe: of all environments.
        num_parts: the number of env runners, which have as many environments each.
        cluster: where the runners are: "local", "auto" or HOST:PORT.

    Raises:
        ValueError: the environments cannot be divided equally, or cannot be made.
    """

    def __init__(self, recipe: EnvRecipe, num_parts: int, *, cluster: str) -> None:
        self.recipes = recipe.split(num_parts)
        self.cluster = cluster
        # Finds mistakes in a world before any process is started, and checks snapshots before they are sent.
        # This process has the files of a trained opponent, so that an error names them.
        self._first: Any = replace(self.recipes[0], opponent_files=None).make()
        self.world: Any = self._first.world
        self.batch: Any = getattr(self._first, "batch", self._first)
        self.restores_exactly: bool = self._first.restores_exactly
        self.rows = self._first.rewards.size * num_parts
        self.snapshots: list[dict[str, Array] | None] = [None] * num_parts
        self.logs: list[dict[str, float]] = []  # since the last `drain_log`

    def snapshot(self) -> dict[str, Array]:
        """Return the snapshots after the last fragments, with the part's number in front of each key.

        Before the first fragment they are those of environments that were reset, so that a training which is stopped
        then can be resumed.
        """
        parts = [self._initial(k) if part is None else part for k, part in enumerate(self.snapshots)]
        return {f"{k}.{name}": array for k, part in enumerate(parts) for name, array in part.items()}

    def _initial(self, part: int) -> dict[str, Array]:
        """Return the snapshot of environments of this part that were reset."""
        envs: Any = replace(self.recipes[part], opponent_files=None).make()
        try:
            envs.reset()
            return {name: np.array(array) for name, array in envs.snapshot().items()}
        finally:
            envs.close()

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Restore a `snapshot`. Raises ValueError, naming the array, where it does not fit."""
        parts = {str(k) for k in range(len(self.recipes))}
        if unknown := [name for name in snapshot if name.partition(".")[0] not in parts]:
            raise ValueError(f"{unknown[0]} belongs to none of {len(parts)} parts")
        for k in range(len(self.recipes)):
            prefix = f"{k}."
            part = {name.removeprefix(prefix): a for name, a in snapshot.items() if name.startswith(prefix)}
            self._first.restore(part)
            self.snapshots[k] = part

    def drain_log(self) -> dict[str, float]:
        """Return the number of episodes that ended since the last call, and the mean of each log field over them."""
        logs, self.logs = self.logs, []
        episodes = sum(log["episodes"] for log in logs)
        means = {
            name: sum(log[name] * log["episodes"] for log in logs) / max(episodes, 1.0)
            for name in (logs[0] if logs else ())
            if name != "episodes"
        }
        return {"episodes": episodes, **means}

    def close(self) -> None:
        """Close what was made in this process."""
        self._first.close()
