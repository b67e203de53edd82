"""Random play of a foreign environment, whichever interface it has: Gymnasium's, PettingZoo's AEC or Parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from .names import UsageError


@dataclass(frozen=True)
class Moment:
    """What an environment shows before an action, or at an episode's end, where nobody acts."""

    actors: tuple[str, ...]
    seen: dict[str, Any]  # by agent, as the environment gave it
    masks: dict[str, Any]
    outcome: dict[str, tuple[float, bool, bool]]  # reward, terminated, truncated since the last moment


class Driver:
    """One way to play an environment, whichever interface it has: `begin` and `act` return the next `Moment`."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make, self.env = make, make()
        import pettingzoo

        self.kind = "gymnasium" if isinstance(self.env, gymnasium.Env) else ""
        self.kind = "aec" if isinstance(self.env, pettingzoo.AECEnv) else self.kind
        self.kind = "parallel" if isinstance(self.env, pettingzoo.ParallelEnv) else self.kind
        if not self.kind:
            expected = "gymnasium.Env, pettingzoo.AECEnv or ParallelEnv"
            raise UsageError(f"{type(self.env).__name__} is none of {expected}")

    def spaces(self, agent: str) -> tuple[Any, Any]:
        """Return an agent's observation and action space."""
        if self.kind == "gymnasium":
            return self.env.observation_space, self.env.action_space
        return self.env.observation_space(agent), self.env.action_space(agent)

    def begin(self, seed: int | None) -> Moment:
        """Begin an episode."""
        if self.kind == "aec":
            self.env.reset(seed=seed)
            return self._of_turn({})
        seen, info = self.env.reset(seed=seed)
        if self.kind == "gymnasium":
            return self._of_one(seen, info, {}, False)
        return self._of_all(seen, info, {})

    def act(self, actions: dict[str, Any]) -> Moment:
        """Take the actions of all who act."""
        env = self.env
        if self.kind == "gymnasium":
            seen, reward, terminated, truncated, info = env.step(actions["agent"])
            outcome = {"agent": (float(reward), bool(terminated), bool(truncated))}
            return self._of_one(seen, info, outcome, terminated or truncated)
        if self.kind == "parallel":
            seen, rewards, terminated, truncated, infos = env.step(actions)
            return self._of_all(seen, infos, {a: (float(rewards[a]), terminated[a], truncated[a]) for a in rewards})
        env.step(next(iter(actions.values())))
        outcome = {a: (float(env.rewards[a]), env.terminations[a], env.truncations[a]) for a in env.agents}
        return self._of_turn(outcome)

    def _of_one(self, seen: Any, info: Any, outcome: Any, over: bool) -> Moment:
        mask = seen.get("action_mask") if isinstance(seen, dict) else None
        mask = info.get("action_mask") if mask is None else mask
        if mask is None and hasattr(self.env, "action_masks"):
            mask = self.env.action_masks()
        return Moment(() if over else ("agent",), {"agent": seen}, _masks({"agent": mask}), outcome)

    def _of_all(self, seen: Any, infos: Any, outcome: Any) -> Moment:
        masks = {agent: _mask(observed, infos.get(agent, {})) for agent, observed in seen.items()}
        return Moment(tuple(self.env.agents), dict(seen), _masks(masks), outcome)

    def _of_turn(self, outcome: Any) -> Moment:
        env = self.env
        seen = {agent: env.observe(agent) for agent in env.agents}
        masks = {agent: _mask(seen[agent], env.infos[agent]) for agent in env.agents}
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        return Moment((env.agent_selection,) if env.agents else (), seen, _masks(masks), outcome)


def _mask(seen: Any, info: Any) -> Any:
    return seen["action_mask"] if isinstance(seen, dict) and "action_mask" in seen else info.get("action_mask")


def _masks(masks: dict[str, Any]) -> dict[str, Any]:
    return {agent: np.asarray(mask) for agent, mask in masks.items() if mask is not None}


def choose(driver: Driver, moment: Moment, rng: np.random.Generator) -> dict[str, Any]:
    """Return random actions, legal where there are masks, for all who act."""
    chosen = {}
    for agent in moment.actors:
        space = driver.spaces(agent)[1]
        mask = moment.masks.get(agent)
        if mask is not None and isinstance(space, Discrete) and mask.any():
            chosen[agent] = int(space.start) + int(rng.choice(np.flatnonzero(mask)))
        else:
            space.seed(int(rng.integers(2**31)))
            chosen[agent] = space.sample()
    return chosen


def episode(driver: Driver, seed: int | None, steps: int, choice: int = 0) -> Iterator[tuple[Moment, dict[str, Any]]]:
    """Yield the moments of one random episode with the actions taken in each, {} in the last."""
    rng, moment = np.random.default_rng(choice), driver.begin(seed)
    for _ in range(steps):
        actions = choose(driver, moment, rng) if moment.actors else {}
        yield moment, actions
        if not actions:
            return
        moment = driver.act(actions)
    yield moment, {}


def same(a: Any, b: Any) -> bool:
    """Whether two observations are the same, bit for bit, whatever they are made of."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(same, a, b))
    x, y = np.asarray(a), np.asarray(b)
    return x.dtype == y.dtype and x.shape == y.shape and (x.dtype == object or x.tobytes() == y.tobytes())
