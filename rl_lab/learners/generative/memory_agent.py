"""The part that agents with a memory have in common: a state for each row of the batch, and random numbers for rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.learners.generative.row_blocks import sampling_keys
from rl_lab.learners.generative.row_state import RowState


class MemoryAgent:
    """The base class of agents that remember an episode. Subclasses implement `choose`.

    The state that `act` returns is float32 [B, size], for all B rows of the batch. An action depends on the row's own
    observations and state, to the bit the same in every batch. Where it is sampled, it also depends on the row's random
    numbers, or on torch's global generator where `set_row_seeds` has not been called.
    With `always_samples`, actions are sampled in both modes.
    """

    name: str
    remembers_actions = True  # those that it has chosen, so it cannot say what it would do where another agent plays
    samples_on_request = True  # where not deterministic; it is measured by its best actions alone

    def __init__(self, row_state: RowState) -> None:
        self._row_state, self.always_samples = row_state, False
        self._envs: BatchedEnv | None = None
        self._row_seeds: tuple[Array, Array] | None = None  # keys [B] and clock [N], if `set_row_seeds` has set them

    def is_row_wise(self, *, deterministic: bool) -> bool:
        """See `agent.Agent`: sampled actions may depend on torch's global generator."""
        return deterministic and not self.always_samples

    def bind(self, envs: BatchedEnv) -> None:
        """See `agent.Agent`."""
        self._envs, self._row_seeds = envs, None

    def set_row_seeds(self, keys: Array, clock: Array) -> None:
        """See `agent.Agent`."""
        self._row_seeds = keys, clock

    def initial_state(self) -> Array:
        """Return the state before the first episodes. Raises ValueError where `bind` has not been called."""
        return self._row_state.initial(self._require_envs().rewards.size)

    def begin(self, state: Any, episode_starts: Array) -> Any:
        """See `agent.Agent`: the state of these rows is zero before an episode."""
        return np.where(np.asarray(episode_starts)[:, None], np.float32(0.0), state)

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`."""
        states = self.initial_state() if state is None else np.array(state)
        index = np.arange(len(observations)) if rows is None else np.asarray(rows)
        own = states[index]
        flat = observations.reshape(len(observations), -1).astype(np.float32)
        keys = None
        if self.always_samples or not deterministic:
            keys = sampling_keys(index, self._row_seeds, self._require_envs().rewards.shape[1])
        actions = self.choose(self._row_state.views(own), flat, index, keys, action_mask)
        states[index] = own
        return actions, states

    def choose(
        self, memory: dict[str, Array], observations: Array, rows: Array, keys: Array | None, action_mask: Array | None
    ) -> Array:
        """Return the actions of R rows and change their memory in place.

        Args:
            memory: views of the parts of the rows' states, [R, ...].
            observations: float32 [R, numbers].
            rows: int64 [R], their indices in the batch.
            keys: uint64 [R], random keys to sample the actions with; None for the best actions.
            action_mask: uint8 [R, actions], 1 for legal actions; None where all are.
        """
        raise NotImplementedError

    def _require_envs(self) -> BatchedEnv:
        if self._envs is None:
            raise ValueError(f"agent {self.name} must be bound to its environments (`bind`) before it acts")
        return self._envs
