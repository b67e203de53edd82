"""This module plays random episodes of a third-party environment, whichever of three APIs it has.

`EnvDriver` hides the differences of Gymnasium's, PettingZoo's AEC and PettingZoo's Parallel API; `third_party` uses it.
It steps the environment that it has made, and seeds the random generators of its action spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core.errors import UsageError


@dataclass(frozen=True)
class EnvStep:
    """The observations and masks before an action, or at the end of an episode; Gymnasium's one agent is "agent"."""

    actors: tuple[str, ...]  # agents that are to act; none at the end of an episode
    observations: dict[str, Any]  # observations by agent, as the environment returned them
    masks: dict[str, Any]  # action masks by agent
    outcome: dict[str, tuple[float, bool, bool]]  # reward, terminated and truncated since the last action, by agent


class EnvDriver:
    """One interface to environments of all three APIs; `reset` and `step` return the next `EnvStep`.

    `make` is called once. `api` is "gymnasium", "aec" or "parallel". Raises UsageError for any other object.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make, self.env = make, make()
        import pettingzoo

        self.api = "gymnasium" if isinstance(self.env, gymnasium.Env) else ""
        self.api = "aec" if isinstance(self.env, pettingzoo.AECEnv) else self.api
        self.api = "parallel" if isinstance(self.env, pettingzoo.ParallelEnv) else self.api
        if not self.api:
            expected = "gymnasium.Env, pettingzoo.AECEnv or ParallelEnv"
            raise UsageError(f"{type(self.env).__name__} is not a {expected}")

    def spaces(self, agent: str) -> tuple[Any, Any]:
        """Return an agent's observation and action space."""
        if self.api == "gymnasium":
            return self.env.observation_space, self.env.action_space
        return self.env.observation_space(agent), self.env.action_space(agent)

    def reset(self, seed: int | None) -> EnvStep:
        """Begin an episode, and return its first step."""
        if self.api == "aec":
            self.env.reset(seed=seed)
            return self._aec_step({})
        obs, info = self.env.reset(seed=seed)
        if self.api == "gymnasium":
            return self._gymnasium_step(obs, info, {}, False)
        return self._parallel_step(obs, info, {})

    def step(self, actions: dict[str, Any]) -> EnvStep:
        """Step the environment with the actions of all agents that are to act, and return the next step."""
        env = self.env
        if self.api == "gymnasium":
            obs, reward, terminated, truncated, info = env.step(actions["agent"])
            outcome = {"agent": (float(reward), bool(terminated), bool(truncated))}
            return self._gymnasium_step(obs, info, outcome, terminated or truncated)
        if self.api == "parallel":
            obs, rewards, terminated, truncated, infos = env.step(actions)
            return self._parallel_step(
                obs, infos, {a: (float(rewards[a]), terminated[a], truncated[a]) for a in rewards}
            )
        env.step(next(iter(actions.values())))
        outcome = {a: (float(env.rewards[a]), env.terminations[a], env.truncations[a]) for a in env.agents}
        return self._aec_step(outcome)

    def _gymnasium_step(self, obs: Any, info: Any, outcome: Any, done: bool) -> EnvStep:
        # Environments publish masks in the observation, in `info`, or by sb3-contrib's method `action_masks`.
        mask = obs.get("action_mask") if isinstance(obs, dict) else None
        mask = info.get("action_mask") if mask is None else mask
        if mask is None and hasattr(self.env, "action_masks"):
            mask = self.env.action_masks()
        return EnvStep(() if done else ("agent",), {"agent": obs}, _masks({"agent": mask}), outcome)

    def _parallel_step(self, observations: Any, infos: Any, outcome: Any) -> EnvStep:
        masks = {agent: _mask(obs, infos.get(agent, {})) for agent, obs in observations.items()}
        return EnvStep(tuple(self.env.agents), dict(observations), _masks(masks), outcome)

    def _aec_step(self, outcome: Any) -> EnvStep:
        env = self.env
        observations = {agent: env.observe(agent) for agent in env.agents}
        masks = {agent: _mask(observations[agent], env.infos[agent]) for agent in env.agents}
        # AEC requires a step with None of every agent whose episode has ended.
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        return EnvStep((env.agent_selection,) if env.agents else (), observations, _masks(masks), outcome)


def _mask(obs: Any, info: Any) -> Any:
    """Return an agent's action mask from its observation or its info, or None."""
    return obs["action_mask"] if isinstance(obs, dict) and "action_mask" in obs else info.get("action_mask")


def _masks(masks: dict[str, Any]) -> dict[str, Any]:
    """Return the masks that are not None as arrays."""
    return {agent: np.asarray(mask) for agent, mask in masks.items() if mask is not None}


def random_actions(driver: EnvDriver, env_step: EnvStep, rng: np.random.Generator) -> dict[str, Any]:
    """Return random actions of all agents that are to act; they are legal where there are masks."""
    actions = {}
    for agent in env_step.actors:
        space = driver.spaces(agent)[1]
        mask = env_step.masks.get(agent)
        if mask is not None and isinstance(space, Discrete) and mask.any():
            actions[agent] = int(space.start) + int(rng.choice(np.flatnonzero(mask)))
        else:
            space.seed(int(rng.integers(2**31)))
            actions[agent] = space.sample()
    return actions


def random_episode(
    driver: EnvDriver, seed: int | None, steps: int, action_seed: int = 0
) -> Iterator[tuple[EnvStep, dict[str, Any]]]:
    """Yield the steps of one random episode with the actions of each; the last one has no actions.

    Args:
        driver: the environment.
        seed: the seed of the environment; None: it is reset without a seed.
        steps: the most steps.
        action_seed: the seed of the actions.
    """
    rng, env_step = np.random.default_rng(action_seed), driver.reset(seed)
    for _ in range(steps):
        actions = random_actions(driver, env_step, rng) if env_step.actors else {}
        yield env_step, actions
        if not actions:
            return
        env_step = driver.step(actions)
    yield env_step, {}


def bitwise_equal(a: Any, b: Any) -> bool:
    """Return whether two observations, dicts or tuples of arrays to any depth, are the same, bit for bit.

    Objects of other classes are compared by their `==`, or by their class alone if it defines none.
    """
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(bitwise_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(bitwise_equal, a, b))
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if x.dtype != object:
        return x.tobytes() == y.tobytes()
    if x.ndim:
        return all(map(bitwise_equal, x.flat, y.flat))
    has_equality = any("__eq__" in vars(kind) for kind in type(a).__mro__[:-1])  # the last one is object
    return type(a) is type(b) and (not has_equality or bool(a == b))
