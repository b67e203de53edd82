"""A diffusion policy as an agent: it makes a sequence of actions, carries out the first of them, and makes the next."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box

from rl_lab.core.agent import StateDict
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array
from rl_lab.learners.generative.diffusion_network import DiffusionPolicy, acting_scheduler
from rl_lab.learners.generative.loading import load_network, require_same_spaces
from rl_lab.learners.generative.memory_agent import MemoryAgent
from rl_lab.learners.generative.row_blocks import call_in_blocks, keys_of, normals
from rl_lab.learners.generative.row_state import RowState
from rl_lab.learners.generative.settings import DiffusionConfig


class DiffusionAgent(MemoryAgent):
    """An agent that remembers the last `history` observations of a row, and the actions that are still to be taken.

    DDIM adds no noise, so the noise at its start decides the actions. It is drawn anew for each sequence, by a hash of
    the observations before it: so the same episode has the same actions, and equal observations have equal ones. Where
    the agent samples, the noise depends on the row's random numbers instead.
    """

    name = "diffusion"

    def __init__(self, policy: DiffusionPolicy, config: DiffusionConfig, space: Box) -> None:
        self.policy, self.config, self.space = policy, config, space
        (size,) = policy.observations.offset.shape
        parts = {"has_observation": (1,), "actions_left": (1,), "history": (config.history, size)}
        super().__init__(RowState({**parts, "queue": (config.act_steps, *space.shape)}))

    def choose(
        self, memory: dict[str, Array], observations: Array, rows: Array, keys: Array | None, action_mask: Array | None
    ) -> Array:
        """See `MemoryAgent.choose`. Before an episode's first observation there are copies of it."""
        history, queue, has_observation, actions_left = (
            memory[name] for name in ("history", "queue", "has_observation", "actions_left")
        )
        is_first = has_observation[:, 0] == 0
        history[:, :-1] = history[:, 1:].copy()
        history[:, -1] = observations
        history[is_first] = observations[is_first, None]
        has_observation[:] = 1
        if len(empty := np.flatnonzero(actions_left[:, 0] == 0)):
            actions = self._sequences(history[empty], None if keys is None else keys[empty])
            queue[empty], actions_left[empty] = actions[:, : self.config.act_steps], self.config.act_steps
        position = self.config.act_steps - actions_left[:, 0].astype(np.int64)
        actions_left -= 1
        return queue[np.arange(len(queue)), position]

    def _sequences(self, history: Array, keys: Array | None) -> Array:
        """Return actions, float32 [R, T, k], for observations [R, H, D] and random keys, uint64 [R]."""
        history = np.ascontiguousarray(history)
        keys = keys_of(history, self.config.seed) if keys is None else keys
        noise = normals(keys, (self.config.horizon, *self.space.shape))
        device = self.policy.observations.offset.device

        def network(history: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            actions: torch.Tensor = self.policy(history.to(device), noise.to(device))
            return actions

        return np.clip(call_in_blocks(network, history, noise), self.space.low, self.space.high)


def require_diffusible(world: EnvSpec) -> Box:
    """Return a world's action space. Raises ValueError where a diffusion policy cannot act in it."""
    if not isinstance(world.action, Box) or len(world.action.shape) != 1:
        raise ValueError(f"diffusion needs continuous actions; those of {world.name} are {world.action}: use sequence")
    require_same_spaces("diffusion", world)
    return world.action


def load_diffusion(config: DiffusionConfig, world: EnvSpec, state_dict: StateDict, device: str) -> DiffusionAgent:
    """Return the agent of a checkpoint. Raises ValueError or KeyError where it does not fit the world."""
    config.check()
    space = require_diffusible(world)
    acting_scheduler(config)  # Diffusers may be missing
    size = int(np.prod(world.observation.shape))
    policy = load_network(
        lambda: DiffusionPolicy(size, space.shape[0], config), world, state_dict, device=device, agent="diffusion"
    )
    return DiffusionAgent(policy, config, space)
