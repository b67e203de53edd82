"""This module declares the protocols that files in agents/ implement: Agent, Learner and Factory."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array


class Agent(Protocol):
    """An agent chooses actions for B rows at once (B = N worlds x A agents).

    Some agents have optional members:

    - An agent whose `act` returns a state has `begin(state, episode_starts) -> state`. It returns the state with the
      rows where episode_starts, bool [B], is True reset to what they are before an episode's first step. A state is of
      all B rows of the batch that `bind` got; with `rows`, `act` returns one that differs in these rows alone. Neither
      changes the state that it is given, because a caller may repeat a call. Where the agent can be an opponent in
      training, `initial_state()` returns the array with which a state from a checkpoint is compared.
    - An agent that remembers its actions may have `replace_actions(state, actions, rows) -> state`. It is called where
      other actions, [R, ...], are carried out than those that `act` returned for these rows, int64 [R].
    - An agent that uses random numbers may have `set_row_seeds(keys, clock)`, which is called after `bind`. From then
      on its random numbers for row r depend only on its own seed, keys[r], uint64 [B], and the step clock[r // A],
      int64 [N]. The caller updates both arrays in place. So an episode is the same in every batch.
    - An agent whose actions depend on `deterministic` sets `stochastic = True` and is evaluated in both modes. One that
      is to be evaluated in the greedy mode alone sets `samples_on_request = True` instead.
    - An agent has `is_row_wise(deterministic=...)`, which returns True, if its action for a row depends on that row's
      observation and world and, with a state, on the row's part of it alone, to the bit, and not on the batch.
    - An agent that reads more of the environments than their observations sets `needs_environment = True`.
    - An agent that was trained and then loaded has `selected_deterministic`. It is True where model selection in
      training compared greedy actions, False where it compared sampled ones.
    """

    name: str

    def bind(self, envs: BatchedEnv) -> None:
        """Prepare to act in this batch, before its first step; agents that need only observations do nothing."""

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """Return actions, int64 [B] or float32 [B, k], for observations [B, *shape], and the agent's next state.

        Args:
            observations: one row for each agent that is to act.
            state: what the last call returned; None at first.
            action_mask: uint8 [B, actions], 1 for legal actions; None where the world has no illegal actions.
            rows: int64 [B], the rows that the observations belong to where only some rows act: agent a of world i is
                row i * A + a.
            deterministic: choose the greedy action rather than sample one.
        """


@dataclasses.dataclass(frozen=True)
class StateDict:
    """A StateDict is a state that can be saved: tensors by member and name, and values that JSON can hold."""

    tensors: dict[str, dict[str, Array]]
    state: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rollout:
    """The experience that a learner collects before it updates. It is never cut, also where it exceeds the budget."""

    steps: int  # environment steps, of all agents and all learners together
    setting: str  # the hyperparameter that decides their number
    learners: int = 1  # how many learners collect one each


class Learner(Protocol):
    """A learner trains a policy on a batch of environments. The training loop calls it one iteration at a time."""

    @property
    def backend(self) -> str:
        """Return what computes the updates: "compiled", or "Stable-Baselines3's own" and the reason."""

    @property
    def steps(self) -> int:
        """Return the number of environment steps so far, counted once per agent."""

    @property
    def rollout(self) -> Rollout:
        """Return what is collected before each update."""

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds spent so far in the phases env, infer and learn."""

    def train_iteration(self) -> dict[str, float]:
        """Collect one rollout and update from it; return metrics. Raises NonFiniteError for non-finite numbers."""

    def agent(self) -> Agent:
        """Return an agent that acts on raw observations and shares the learner's current parameters."""

    def save_agent(self) -> StateDict:
        """Return the state from which `load` of the same file makes the agent again."""

    def save(self) -> StateDict:
        """Return the state from which `restore` continues bit for bit; the environments are not part of it."""

    def restore(self, state_dict: StateDict) -> None:
        """Continue from a state that `save` returned."""

    def close(self) -> None:
        """End the processes that the learner has started, if any. It is not used afterwards."""


class Factory(Protocol):
    """A factory is a module agents/<name>.py: it has a Config and makes the agent or its learner.

    A module of an agent that learns has `learner` and `load`; one of an agent that does not learn has only `make`.
    """

    Config: type[Any]

    def learner(self, config: Any, envs: BatchedEnv, *, budget: int, seed: int, device: str) -> Learner:
        """Return a new learner for `budget` steps. Raises ValueError where it cannot learn this world."""

    def make(self, config: Any, world: EnvSpec) -> Agent:
        """Return an agent that needs no learning."""

    def load(self, config: Any, world: EnvSpec, state_dict: StateDict, *, device: str) -> Agent:
        """Return the agent that `save_agent` saved. Raises ValueError where the state does not fit."""


def hyperparameter(
    default: Any, meaning: str, unit: str = "", *, low: float | None = None, high: float | None = None
) -> Any:
    """Declare one field of a Config: its default, one line of meaning and, optionally, its unit and its bounds."""
    metadata = {"meaning": meaning, "unit": unit, "low": low, "high": high}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_bounds(config: Any) -> None:
    """Raise ValueError for the first hyperparameter outside its bounds, of a Config or another dataclass that has some.

    The value None is always valid.
    """
    for field in dataclasses.fields(config):
        value, low, high = getattr(config, field.name), field.metadata.get("low"), field.metadata.get("high")
        if value is None or low is None:
            continue
        if not low <= value or (high is not None and not value <= high):
            expected = f"at least {low}" if high is None else f"{low} to {high}"
            raise ValueError(f"{field.name}={value}: expected {expected}")
