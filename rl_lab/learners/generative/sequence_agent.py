"""A sequence policy as an agent: it remembers the last transitions of a row, and aims at a return."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from rl_lab.core.agent import StateDict
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.random_actions import sample_categorical
from rl_lab.core.world import Array
from rl_lab.learners.generative.loading import POLICY_TENSORS, load_network, require_same_spaces
from rl_lab.learners.generative.memory_agent import MemoryAgent
from rl_lab.learners.generative.requirement import require
from rl_lab.learners.generative.row_blocks import call_in_blocks, uniforms
from rl_lab.learners.generative.row_state import RowState
from rl_lab.learners.generative.sequence_network import STEP_TABLE, Context, SequencePolicy, make_policy
from rl_lab.learners.generative.settings import SequenceConfig

_ILLEGAL = -1e8  # the score of an action that is not legal


class SequenceAgent(MemoryAgent):
    """An agent whose return to go is its target less the rewards of the episode so far."""

    needs_environment = True  # the returns to go depend on the rewards so far

    name = "sequence"

    def __init__(self, policy: SequencePolicy, target_return: float, context: int, world: EnvSpec) -> None:
        self.policy, self.target_return, self.context, self.space = policy, target_return, context, world.action
        (size,) = policy.observations.offset.shape
        actions = () if policy.is_discrete else (policy.action_size,)
        parts = {"length": (1,), "step": (1,), "observations": (context, size), "actions": (context, *actions)}
        super().__init__(RowState({**parts, "returns_to_go": (context,), "steps": (context,)}))

    def choose(
        self, memory: dict[str, Array], observations: Array, rows: Array, keys: Array | None, action_mask: Array | None
    ) -> Array:
        """See `MemoryAgent.choose`."""
        position = self._remember(memory, observations, rows)
        predictions = self._predictions(memory, position)
        if isinstance(self.space, Box):
            actions = np.clip(predictions, self.space.low, self.space.high)
        else:
            actions = _discrete_actions(predictions, action_mask, keys)
        memory["actions"][np.arange(len(rows)), position] = actions
        return actions

    def replace_actions(self, state: Any, actions: Array, rows: Array) -> Any:
        """See `agent.Agent`."""
        states = np.array(state)
        own = states[rows]
        memory = self._row_state.views(own)
        memory["actions"][np.arange(len(rows)), memory["length"][:, 0].astype(np.int64) - 1] = actions
        states[rows] = own
        return states

    def _remember(self, memory: dict[str, Array], observations: Array, rows: Array) -> Array:
        """Add a transition without its action to the memory; return its place in the context, int64 [R]."""
        length = memory["length"][:, 0].astype(np.int64)
        is_full = length == self.context
        for name in ("observations", "actions", "returns_to_go", "steps"):
            memory[name][is_full, :-1] = memory[name][is_full, 1:]
        position, index = np.minimum(length, self.context - 1), np.arange(len(rows))
        returns_so_far = self._require_envs().running_returns.reshape(-1)[rows]
        memory["observations"][index, position] = observations
        memory["returns_to_go"][index, position] = self.target_return - returns_so_far
        memory["steps"][index, position] = memory["step"][:, 0]
        memory["actions"][index, position] = 0  # it follows the prediction, which does not depend on it
        memory["length"][:, 0] = position + 1
        memory["step"] += 1
        return position

    def _predictions(self, memory: dict[str, Array], position: Array) -> Array:
        """Return the scores of discrete actions, or continuous actions, float32 [R, C]."""
        policy = self.policy
        device = policy.return_scale.device

        def network(*tensors: torch.Tensor) -> torch.Tensor:
            returns_to_go, observations, actions, steps, position = (tensor.to(device) for tensor in tensors)
            actions = actions.long() if policy.is_discrete else actions
            predictions = policy(Context(returns_to_go, observations, actions, steps.long()))
            present: torch.Tensor = predictions[torch.arange(len(position)), position]
            return present if policy.is_discrete else policy.actions.inverse(present)

        names = ("returns_to_go", "observations", "actions", "steps")
        return call_in_blocks(network, *(np.ascontiguousarray(memory[name]) for name in names), position)


def _discrete_actions(scores: Array, action_mask: Array | None, keys: Array | None) -> Array:
    """Return the legal actions with the largest scores, int64 [R], or with keys, uint64 [R], sampled ones."""
    if action_mask is not None:
        scores = np.where(action_mask[:, : scores.shape[1]] != 0, scores, _ILLEGAL)
    if keys is None:
        return np.asarray(scores.argmax(1))
    probs = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    return sample_categorical(probs / probs.sum(1, keepdims=True), uniforms(keys))


def _rows_of_step_table(state_dict: StateDict) -> int:
    shape = np.shape(state_dict.tensors[POLICY_TENSORS][STEP_TABLE])
    return max(shape[0], 1) if len(shape) == 2 else 1


def load_sequence(config: SequenceConfig, world: EnvSpec, state_dict: StateDict, device: str) -> SequenceAgent:
    """Return the agent of a checkpoint. Raises ValueError or KeyError where it does not fit the world."""
    config.check()
    if config.target_return is None:
        raise ValueError("agent.target_return is missing: say at which return it aims")
    require_same_spaces("sequence", world)
    require("transformers", "agent sequence")
    # The world's time limit may be another one than in training.
    num_steps = _rows_of_step_table(state_dict)
    policy = load_network(
        lambda: make_policy(world, config, num_steps), world, state_dict, device=device, agent="sequence"
    )
    return SequenceAgent(policy, config.target_return, config.context, world)
