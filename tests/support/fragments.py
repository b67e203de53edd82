"""Make fragments (a few steps of several environments) of random numbers, and convert them to RLlib's episodes.

Tests compare what the lab computes from a fragment with what RLlib computes from the episodes.
"""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rl_lab.learners.rllib.fragment import Fragment

STEPS, ROWS, SIZE, ACTIONS = 7, 5, 3, 4  # steps, environments, numbers in an observation, actions
SPACES = Box(-np.inf, np.inf, (SIZE,), np.float32), Discrete(ACTIONS)


def random_fragment(seed: int, end_probability: float) -> Fragment:
    """Return a fragment in which each step ends an episode with this probability, by termination or by truncation."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    terminated, truncated = rng.random((2, STEPS, ROWS)) < end_probability
    return Fragment(
        observations=floats(STEPS, ROWS, SIZE),
        last_observations=floats(ROWS, SIZE),
        final_observations=floats(int((terminated | truncated).sum()), SIZE),
        actions=rng.integers(ACTIONS, size=(STEPS, ROWS)),
        action_logp=floats(STEPS, ROWS),
        action_dist_inputs=floats(STEPS, ROWS, ACTIONS),
        rewards=floats(STEPS, ROWS),
        terminated=terminated,
        truncated=truncated & ~terminated,
    )


def episodes_of(fragment: Fragment) -> list[SingleAgentEpisode]:
    """Return the fragment as RLlib's episodes, in the order in which RLlib's own runner would return them."""
    ends = fragment.terminated | fragment.truncated
    first_step = [0] * ROWS  # of the current episode of each row
    final_observations, ended, running = iter(fragment.final_observations), [], []

    def episode(row: int, stop: int, last_observation: np.ndarray) -> SingleAgentEpisode:
        """Return the steps of a row from `first_step` to `stop` as an episode of RLlib."""
        part = slice(first_step[row], stop)
        return SingleAgentEpisode(
            observations=[*fragment.observations[part, row], last_observation],
            actions=list(fragment.actions[part, row]),
            rewards=[float(reward) for reward in fragment.rewards[part, row]],
            terminated=bool(fragment.terminated[stop - 1, row]),
            truncated=bool(fragment.truncated[stop - 1, row]),
            extra_model_outputs={
                "action_logp": list(fragment.action_logp[part, row]),
                "action_dist_inputs": list(fragment.action_dist_inputs[part, row]),
            },
            len_lookback_buffer=0,
            observation_space=SPACES[0],
            action_space=SPACES[1],
        )

    for t in range(STEPS):
        for row in np.flatnonzero(ends[t]):
            ended.append(episode(row, t + 1, next(final_observations)))
            first_step[row] = t + 1
    for row in range(ROWS):
        if first_step[row] < STEPS:
            running.append(episode(row, STEPS, fragment.last_observations[row]))
    return ended + running
