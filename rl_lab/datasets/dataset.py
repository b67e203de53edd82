"""Data sets as learners read them: flat arrays that are mapped into memory, and their division by level seed.

    data = open_dataset(Path("demos/cartpole"))
    train, validation = data.split(0.1, seed=0)          # indices of episodes
    steps = data.steps_of(train)                         # indices of transitions
    data.observations[steps], data.actions[steps]        # copies of these rows

Shapes: S transitions, E episodes. Episode e has the transitions `episode_offsets[e]` to `episode_offsets[e + 1] - 1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import EnvSpec
from rl_lab.datasets import cache, metadata
from rl_lab.datasets.columns import NO_SEED, Array


@dataclass(frozen=True)
class Dataset:
    """A data set. All arrays are read-only; those of S and E rows are mapped from files.

    An agent's episode ends with the transition whose `terminated` or `truncated` is True. In data of others, both may
    be False there. In worlds of several agents, each agent has an episode of its own, which has a transition for each
    of its decisions; its rewards between two decisions are summed.
    """

    path: Path
    world: str  # the world's name in the lab; "" for data of others
    observation_space: Box
    action_space: Discrete[Any] | Box
    observations: Array  # [S, *observation shape], what the agent saw before the action of the same row
    final_observations: Array  # [E, *observation shape], after the last transition of each episode
    actions: Array  # int64 [S] or float32 [S, k]
    rewards: Array  # float32 [S]
    terminated: Array  # bool [S]
    truncated: Array  # bool [S]
    action_masks: Array | None  # uint8 [S, actions], 1 for legal actions; None where every action is legal
    episode_offsets: Array  # int64 [E + 1]
    seeds: Array  # int64 [E], from which the world's episode can be played again; -1 where it is not recorded
    agent_indices: Array  # int64 [E]
    group_ids: Array  # int64 [E]; episodes of agents that shared one episode of the world have the same id
    policy_indices: Array  # int64 [E], indices of `policies`
    policies: tuple[str, ...]  # names of the policies that acted
    content_hash: str  # SHA-256
    info: dict[str, Any]  # whatever else is recorded: the world's parameters, the seed, the noise

    @property
    def num_steps(self) -> int:
        """Return S."""
        return len(self.rewards)

    @property
    def num_episodes(self) -> int:
        """Return E."""
        return len(self.episode_offsets) - 1

    @property
    def lengths(self) -> Array:
        """Return the number of transitions of each episode, int64 [E]."""
        return np.asarray(np.diff(self.episode_offsets))

    def episode_of(self, steps: Array) -> Array:
        """Return the episode of each transition, int64, of the same shape as `steps`."""
        return np.asarray(np.searchsorted(self.episode_offsets, steps, side="right") - 1)

    def steps_of(self, episodes: Array) -> Array:
        """Return the transitions of these episodes, one episode after the other, int64 [n]."""
        lengths = self.lengths[episodes]
        firsts = self.episode_offsets[episodes] - (np.cumsum(lengths) - lengths)
        return np.asarray(np.arange(lengths.sum()) + np.repeat(firsts, lengths))

    def next_observations(self, steps: Array) -> Array:
        """Return the observation after each of these transitions, [n, *observation shape], for steps int64 [n]."""
        episodes = self.episode_of(steps)
        is_last = steps == self.episode_offsets[episodes + 1] - 1
        after = np.array(self.observations[np.minimum(steps + 1, self.num_steps - 1)])
        after[is_last] = self.final_observations[episodes[is_last]]
        return after

    def returns(self) -> Array:
        """Return the undiscounted return of each episode, float64 [E]."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_offsets[:-1])

    def split(self, fraction: float, seed: int) -> tuple[Array, Array]:
        """Divide the episodes into those to train from and those to validate with, int64 [..] each, in order.

        Episodes with one level seed, and those of one group, are on the same side. The validation side has nearly
        `fraction` of the episodes, and each side has one at least. The same arguments give the same division.

        Raises ValueError where `fraction` is not between 0 and 1, or where all episodes have one level seed.
        """
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"fraction={fraction}: expected a number between 0 and 1")
        # Data without seeds are divided by group. Negative numbers cannot be seeds.
        keys = np.where(self.seeds == NO_SEED, -2 - self.group_ids, self.seeds)
        levels, level_of, counts = np.unique(keys, return_inverse=True, return_counts=True)
        if len(levels) < 2:
            raise ValueError(f"{self.path} has episodes of one level seed only, which cannot be divided")
        order = np.random.default_rng(seed).permutation(len(levels))
        episodes_before = np.cumsum(counts[order]) - counts[order] / 2
        is_validation = np.zeros(len(levels), np.bool_)
        chosen = int(np.searchsorted(episodes_before, fraction * self.num_episodes))
        is_validation[order[: min(max(chosen, 1), len(levels) - 1)]] = True
        selected = is_validation[level_of.reshape(-1)]
        return np.flatnonzero(~selected), np.flatnonzero(selected)

    def require_world(self, world: EnvSpec) -> None:
        """Raise UsageError where the observations or actions are not those of this world."""
        own, other = (
            f"observations {_contract(observation)}, actions {_contract(action)}"
            for observation, action in ((self.observation_space, self.action_space), (world.observation, world.action))
        )
        if own != other:
            raise UsageError(f"{self.path} is data of another world: {own}; {world.name} has {other}")


def _contract(space: Box | Discrete[Any]) -> str:
    if isinstance(space, Discrete):
        return f"Discrete({int(space.n)})"
    return f"{space.low.dtype} {list(space.shape)}"


def open_dataset(path: Path) -> Dataset:
    """Open a data set: a folder that `rl-lab data collect` or Minari has written, or the folder data/ in it.

    The first time, the episodes are checked and copied into flat files in the user's cache folder.

    Raises:
        UsageError: there is no data set, it is empty, damaged or of a kind that is not supported, or pyarrow is
            missing.
        WorkFailed: the cache folder cannot be written.
    """
    folder = metadata.data_folder(path)
    description = metadata.read(folder)
    if description.num_episodes == 0 or description.num_steps == 0:
        raise UsageError(f"{path} holds no episode")
    policies = description.policies or ("unknown",)
    columns, key = cache.open_columns(folder, description)
    if columns.policy_indices.max() >= len(policies):
        raise UsageError(f"{path}: policy_index is {columns.policy_indices.max()}; there are {len(policies)} policies")
    offsets = columns.offsets
    offsets.setflags(write=False)
    return Dataset(
        path=path,
        world=description.world,
        observation_space=description.observation_space,
        action_space=description.action_space,
        observations=columns.observations,
        final_observations=columns.final_observations,
        actions=columns.actions,
        rewards=columns.rewards,
        terminated=columns.terminated,
        truncated=columns.truncated,
        action_masks=columns.action_masks if description.mask_size else None,
        episode_offsets=offsets,
        seeds=columns.seeds,
        agent_indices=columns.agent_indices,
        group_ids=columns.group_ids,
        policy_indices=columns.policy_indices,
        policies=policies,
        content_hash=key,
        info=description.info,
    )
