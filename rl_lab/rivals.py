"""Who has the other seats: a list of agents that may grow, how likely each is drawn, and what each decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .agent import Agent
from .batch import Worlds
from .player import decide
from .world import Array


class Rivals:
    """Agents by number. `chances`, float64 [R] with sum 1, is how likely an episode meets each of the R."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents: list[Agent] = list(agents)
        self.chances = np.full(len(self.agents), 1.0) / max(len(self.agents), 1)

    def __len__(self) -> int:
        return len(self.agents)

    def seed(self, seed: int, first: int, worlds: Worlds) -> None:
        """Begin what is drawn for `worlds`, of which the first has this number, anew; agents have their own seeds."""

    def attend(self, worlds: Worlds) -> None:
        """Let everybody take a seat."""
        for agent in self.agents:
            agent.attend(worlds)

    def draw(self, uniform: Array) -> Array:
        """Return whom episodes meet, int64 [E], for numbers in [0, 1), float64 [E]."""
        bounds = np.cumsum(self.chances)
        # Rounding can leave the last bound below 1, and the last of all need not be one who plays.
        last = int(np.flatnonzero(self.chances)[-1]) if self.chances.any() else 0
        drawn = np.searchsorted(bounds, uniform * bounds[-1], side="right")
        return np.asarray(np.minimum(drawn, last))

    def decide(self, worlds: Worlds, rows: Array, who: Array, *, deterministic: bool) -> None:
        """Write the actions of these rows, int64 [R]: rival who[r], int64 [R], has row r."""
        for number in np.unique(who).tolist():
            decide(self.agents[number], worlds, rows[who == number], deterministic=deterministic)

    def snapshot(self) -> dict[str, Array]:
        """Return how often each has drawn, of those that draw."""
        return {"calls": np.array([getattr(agent, "calls", 0) for agent in self.agents], np.int64)}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Go on from a `snapshot`. ValueError where it is of others."""
        calls = snapshot.get("calls")
        if calls is None or calls.shape != (len(self.agents),) or calls.dtype != np.int64:
            raise ValueError(f"snapshot of another game: it is not of {len(self.agents)} rivals")
        for agent, count in zip(self.agents, calls.tolist(), strict=True):
            if hasattr(agent, "calls"):
                agent.calls = count
