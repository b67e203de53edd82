"""Symmetries of a world: permutations of what an agent observes and does under which the world behaves alike.

A mirrored board is one, where left and right change places among the actions. With `symmetries=true`, `rl-lab pretrain`
shows each demonstration in all such forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.world_errors import WorldError


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A symmetry of a world of Discrete actions. Number i of the flat observation comes from number `observation[i]`.

    Action a becomes action `actions[a]`. Both are permutations, int64.
    """

    observation: np.ndarray[Any, Any]  # [size of an observation]
    actions: np.ndarray[Any, Any]  # [number of actions]

    def check(self, location: str, observation: Box, action: Discrete[Any] | Box) -> None:
        """Raise WorldError, which begins with `location`, unless these are permutations for such spaces."""
        if not isinstance(action, Discrete):
            raise WorldError(f"{location}: symmetries are for worlds with Discrete actions")
        sizes = {"observation": int(np.prod(observation.shape)), "actions": int(action.n)}
        for name, size in sizes.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype.kind != "i":
                raise WorldError(f"{location}: {name} of a symmetry is {type(array).__name__}; expected an int64 array")
            if not np.array_equal(np.sort(array), np.arange(size)):
                raise WorldError(f"{location}: {name} of a symmetry is no permutation of {size} numbers")
