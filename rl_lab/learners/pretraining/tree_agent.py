"""A decision tree, or a sum of trees, as an agent."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.agent import StateDict
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array
from rl_lab.learners.pretraining.contract import contract_of, require_same
from rl_lab.learners.pretraining.tree_files import Trees, from_state

TREE_TENSORS = "tree"  # name of the arrays in the checkpoint of an agent


class TreeAgent:
    """An agent that takes the best legal action of a row's leaves, as a DQN takes that with the largest value."""

    name = "tree"

    def __init__(self, tree: Trees) -> None:
        self.tree = tree

    def is_row_wise(self, *, deterministic: bool) -> bool:
        """See `agent.Agent`."""
        return True

    def bind(self, envs: BatchedEnv) -> None:
        """See `agent.Agent`; a tree needs only observations."""

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
        return self.tree.act(observations, action_mask), None

    def probabilities(
        self, observations: Array, action_mask: Array | None = None, *, rows: Array | None = None
    ) -> Array:
        """Return probability 1 for the action that `act` takes, float64 [B, actions].

        Raises ValueError for continuous actions.
        """
        if self.tree.action_kind == "continuous":
            raise ValueError("a tree of continuous actions has no probabilities of them")
        size = self.tree.num_outputs if action_mask is None else action_mask.shape[1]
        return np.asarray(np.eye(size)[self.tree.act(observations, action_mask)])


def action_kind(world: EnvSpec) -> str:
    """Return the kind of a world's actions.

    Raises ValueError where the agents' spaces differ: a tree has the same numbers and actions for all of them.
    """
    for spaces in (world.observation_spaces, world.action_spaces):
        if any(space != spaces[0] for space in spaces):
            raise ValueError(f"a tree needs agents with the same spaces; those of {world.name} differ")
    return "discrete" if isinstance(world.action, Discrete) else "continuous"


def load_tree(world: EnvSpec, state_dict: StateDict) -> TreeAgent:
    """Return the agent of a checkpoint. Raises ValueError or KeyError where it is none, or does not fit the world."""
    tree = from_state(state_dict.tensors[TREE_TENSORS], state_dict.state)
    require_same(tree.observation, contract_of(world.observation), "the tree", world.name)
    kind, space = action_kind(world), world.action
    size = space.shape[0] if isinstance(space, Box) else int(space.n)
    if (tree.action_kind, tree.num_outputs) != (kind, size):
        own = f"{tree.action_kind} actions of size {tree.num_outputs}"
        raise ValueError(f"the tree has {own}; {world.name} takes {space}")
    return TreeAgent(tree)
