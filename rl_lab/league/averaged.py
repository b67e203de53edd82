"""What self-play averages to: one of those that it has been plays an episode, and who that is is drawn before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..batch import Worlds
from ..chance import choices, uniforms
from ..engine import Batch
from ..rng import STREAM_SHIFT, philox
from ..world import Array
from .actors import Actors, Asked

_WHO = np.uint64(0xA7E3)  # a key: who plays is drawn apart from what is played


class AveragedAgent:
    """M policies of `actors`, of which each episode draws one for each seat, all alike, and then its actions.

    Against everybody it is worth what the average strategy is, weighted by reach. It always draws, and what it draws
    depends on an episode's seed, the seat and the step alone. With M = 1 it is a policy that is not deterministic.

    Source: Heinrich, Lanctot and Silver 2015, "Fictitious self-play in extensive-form games", lemma 6.
    """

    def __init__(self, name: str, actors: Actors | Asked, count: int) -> None:
        self.name, self.actors, self.count = name, actors, count
        self._follows: tuple[Array, Array] | None = None

    def policies(self) -> list[Callable[[Array, Array], Array]]:
        """Return each of the policies as a function of observations [B, *shape] and legal [B, S]."""

        def one(number: int) -> Callable[[Array, Array], Array]:
            return lambda seen, legal: self.actors.probabilities(seen, np.full(len(seen), number), legal)

        return [one(number) for number in range(self.count)]

    def attend(self, worlds: Worlds) -> None:
        """Keep the batch: an episode's seed is in its state. Raises ValueError for worlds that have none."""
        if not isinstance(worlds, Batch):
            raise ValueError(f"{worlds.world.name}: only the lab's own worlds tell from which seed an episode is")
        self._worlds, self._seats, self._follows = worlds, worlds.active.shape[1], None

    def follow(self, keys: Array, clock: Array) -> None:
        """See `agent.Agent`."""
        self._follows = keys, clock

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`; call `attend` first."""
        numbers = np.arange(len(observations)) if rows is None else np.asarray(rows)
        keys, clock = self._origin(numbers)
        drawn = uniforms(keys ^ _WHO, np.zeros(len(numbers), np.int64))
        who = (drawn * self.count).astype(np.int64)
        chances = self.actors.probabilities(observations, who, legal)
        return choices(chances, uniforms(keys, clock)), None

    def _origin(self, rows: Array) -> tuple[Array, Array]:
        """Return of each row, [R], the key that its episode has throughout, and the episode's step."""
        worlds, seats = np.divmod(rows, self._seats)
        if self._follows is not None:
            keys, clock = self._follows
            return keys[rows], clock[worlds]
        states = self._worlds.states[worlds]
        streams = states["rng_counter"] >> STREAM_SHIFT
        keys = philox(states["rng_key"] ^ _WHO, streams * np.uint64(self._seats) + seats.astype(np.uint64))
        return keys, states["t"].astype(np.int64)
