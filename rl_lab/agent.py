"""What an agent is, and what training drives: the two things every file in agents/ provides."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from .batch import WorldInfo, Worlds
from .world import Array


class Agent(Protocol):
    """Decides for B rows at once (B = N worlds x A agents).

    One whose `act` returns a state has one more method, `begin(state, fresh) -> state`: the state with the rows where
    fresh, bool [B], as they are before an episode's first step.

    One that draws may have `follow(keys, clock)`, called after `attend`: what it draws for row r from then on is to
    depend on its own seed, keys[r], uint64 [B], and the step clock[r // A], int64 [N], alone. Both arrays are kept up
    to date in place. So an episode is the same in whatever batch it is played.
    """

    name: str

    def attend(self, worlds: Worlds) -> None:
        """Take a seat at these worlds before their first step; agents that need only observations ignore it."""

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """Return actions, int64 [B] or float32 [B, k], for observations [B, *shape], and the agent's next state.

        `legal`, uint8 [B, actions], masks actions where a world has illegal ones; `state` is what the last call
        returned, None at first. `rows`, int64 [B], says whose observations they are where not everybody is asked:
        agent a of world i is row i * A + a.
        """


@dataclasses.dataclass(frozen=True)
class Saved:
    """State as it goes to disk: tensors by member and name, and what JSON can hold."""

    tensors: dict[str, dict[str, Array]]
    state: dict[str, Any]


class Learner(Protocol):
    """An algorithm at work on a batch of worlds. Training drives it one iteration at a time."""

    @property
    def how(self) -> str:
        """How it computes: "compiled", or "stock" and why."""

    @property
    def steps(self) -> int:
        """Environment steps taken, each agent's counted."""

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went so far: env, infer, learn."""

    def advance(self) -> dict[str, float]:
        """Collect experience and learn from it once; return metrics. Non-finite numbers raise NonFiniteError."""

    def agent(self) -> Agent:
        """Return the agent as it is now; it acts on raw observations and shares the learner's parameters."""

    def save_agent(self) -> Saved:
        """Return what `load` of the same file needs to make the agent again."""

    def save(self) -> Saved:
        """Return everything that `restore` needs to go on bit for bit, the batch of worlds excepted."""

    def restore(self, saved: Saved) -> None:
        """Go on from what `save` returned."""


class Factory(Protocol):
    """What a module agents/<name>.py offers beside its Config.

    An agent that learns has `learner`; one that does not has `make` alone. `load` makes a saved agent again.
    """

    Config: type[Any]

    def learner(self, config: Any, worlds: Worlds, *, budget: int, seed: int, device: str) -> Learner:
        """Return a learner that has not begun. Raises ValueError where it cannot learn this world."""

    def make(self, config: Any, world: WorldInfo) -> Agent:
        """Return an agent that needs no learning."""

    def load(self, config: Any, world: WorldInfo, saved: Saved, *, device: str) -> Agent:
        """Return the agent that `save_agent` saved. Raises ValueError where the state does not fit."""


def hyperparameter(
    default: Any, meaning: str, unit: str = "", *, low: float | None = None, high: float | None = None
) -> Any:
    """Declare one field of a Config: its default, one line of meaning and, if it has them, its unit and its bounds."""
    metadata = {"meaning": meaning, "unit": unit, "low": low, "high": high}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_bounds(config: Any) -> None:
    """Raise ValueError for the first hyperparameter of a Config that is outside its bounds; None has none."""
    for field in dataclasses.fields(config):
        value, low, high = getattr(config, field.name), field.metadata["low"], field.metadata["high"]
        if value is None or low is None:
            continue
        if not low <= value or (high is not None and not value <= high):
            expected = f"at least {low}" if high is None else f"{low} to {high}"
            raise ValueError(f"{field.name}={value}: expected {expected}")
