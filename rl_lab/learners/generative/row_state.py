"""What a policy with a memory keeps for each row of a batch: one array that can be saved, with named parts."""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array


class RowState:
    """The parts of an agent's state, float32 [B, size]: for each row, arrays of these shapes one after the other.

    All numbers of a row are 0 before an episode.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._parts: dict[str, tuple[slice, tuple[int, ...]]] = {}
        first = 0
        for name, shape in shapes.items():
            last = first + int(np.prod(shape))
            self._parts[name], first = (slice(first, last), shape), last
        self.size = first

    def initial(self, rows: int) -> Array:
        """Return the state of this number of rows before an episode."""
        return np.zeros((rows, self.size), np.float32)

    def views(self, state: Array) -> dict[str, Array]:
        """Return views of the parts of a state [B, size], by name: [B, *shape]."""
        return {name: state[:, part].reshape(len(state), *shape) for name, (part, shape) in self._parts.items()}
