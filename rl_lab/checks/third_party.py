"""The suite of `rl-lab check` for Gymnasium and PettingZoo environments: seeds, spaces and action masks."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.checks.env_driver import EnvDriver, EnvStep, episode, same
from rl_lab.checks.subject import CheckBudget, Result, Skip
from rl_lab.checks.suite import run
from rl_lab.core.errors import UsageError, one_line

EPISODES = 3


def one_seed_one_episode(make: Callable[[], Any], effort: CheckBudget) -> list[str]:
    """Compare episodes of two instances, and of the first instance again: reset(seed) must determine the episode."""
    one, other = EnvDriver(make), EnvDriver(make)
    for number in range(EPISODES):
        first = list(episode(one, 11 + number, effort.steps, number))
        for what, driver in (("another instance", other), ("the same instance again", one)):
            again = episode(driver, 11 + number, effort.steps, number)
            for t, ((a, _), (b, _)) in enumerate(zip(first, again, strict=False)):
                for name in ("observations", "masks", "outcome", "actors"):
                    if not same(getattr(a, name), getattr(b, name)):
                        shown = "acting agents" if name == "actors" else name
                        place = f"seed {11 + number}, step {t}: {what} differs in {shown}"
                        return [f"{place}; draw only from a generator that reset(seed=...) makes"]
    return []


def another_seed_another_episode(make: Callable[[], Any], effort: CheckBudget) -> list[str]:
    """Compare episodes with different seeds and the same choices and, where these are equal, without seeds."""
    driver = EnvDriver(make)
    played = [[m.observations for m, _ in episode(driver, seed, effort.steps)] for seed in (1, 2, 3)]
    if not all(same(other, played[0]) for other in played[1:]):
        return []
    unseeded = [[m.observations for m, _ in episode(driver, None, effort.steps)] for _ in range(3)]
    if all(same(other, unseeded[0]) for other in unseeded[1:]):
        raise Skip("it draws no random numbers")
    return ["three seeds show the same, and resets without a seed differ: reset must make its generator from the seed"]


def spaces_hold_what_is_seen(make: Callable[[], Any], effort: CheckBudget) -> list[str]:
    """Check every agent's observation in every step."""
    driver, findings = EnvDriver(make), set()
    for number in range(EPISODES):
        for t, (env_step, _) in enumerate(episode(driver, number, effort.steps, number)):
            for agent, observation in env_step.observations.items():
                space = driver.spaces(agent)[0]
                if not space.contains(observation):
                    findings.add(f"{agent} at step {t} of seed {number}: {_outside(space, observation)}")
            if any(not np.isfinite(outcome[0]) for outcome in env_step.outcome.values()):
                findings.add(f"step {t} of seed {number}: a reward is not finite")
            if findings:
                return sorted(findings)
    return []


def _outside(space: Any, observation: Any) -> str:
    if isinstance(space, gymnasium.spaces.Dict) and isinstance(observation, dict):
        for key, part in space.spaces.items():
            if key not in observation or not part.contains(observation[key]):
                return f"[{key!r}] " + (_outside(part, observation[key]) if key in observation else "is missing")
        return f"unknown keys {sorted(set(observation) - set(space.spaces))}"
    if not isinstance(space, Box) or not isinstance(observation, np.ndarray):
        return f"{one_line(observation)[:60]} is not in {one_line(space)[:60]}"
    if observation.shape != space.shape or (
        space.dtype is not None and not np.can_cast(observation.dtype, space.dtype)
    ):
        return f"{observation.dtype} {list(observation.shape)}, where the space says {space.dtype} {list(space.shape)}"
    bad = np.argwhere(~((observation >= space.low) & (observation <= space.high)))[0]
    at = tuple(int(k) for k in bad)
    return f"{observation[at]:g} at {list(at)} is outside {space.low[at]:g} to {space.high[at]:g}"


def masks_tell_the_truth(make: Callable[[], Any], effort: CheckBudget) -> list[str]:
    """Try actions in states of an episode: legal ones must work, illegal ones must raise, end it or do nothing."""
    driver = EnvDriver(make)
    env_steps: list[tuple[EnvStep, dict[str, Any]]] = []
    try:
        for env_step in episode(driver, 5, effort.steps, 5):
            env_steps.append(env_step)
    except Exception as error:
        if not env_steps or not env_steps[-1][0].masks:
            raise
        shown = f"{env_steps[-1][1]} at step {len(env_steps) - 1}"
        return [f"{shown}: the masks say legal, but it raised {type(error).__name__}: {error}"]
    if not any(env_step.masks for env_step, _ in env_steps):
        raise Skip("it shows no masks")
    findings = []
    for t in np.unique(np.linspace(0, len(env_steps) - 1, effort.states).astype(int)).tolist():
        env_step, chosen = env_steps[t]
        for agent in env_step.actors if chosen else ():
            mask, space = env_step.masks.get(agent), driver.spaces(agent)[1]
            if mask is None or not isinstance(space, Discrete):
                continue
            if mask.shape != (space.n,) or not np.isin(mask, (0, 1)).all():
                findings.append(f"{agent} at step {t}: the mask must be {int(space.n)} numbers, 0 or 1")
            elif not mask.any():
                findings.append(f"{agent} has to act at step {t} and has no legal action")
            else:
                findings += _try_actions(driver, env_steps[:t], env_step, {**chosen}, agent, int(space.start))
    return findings


def _try_actions(driver: EnvDriver, before: Any, env_step: EnvStep, chosen: Any, agent: str, start: int) -> list[str]:
    """Return the findings of up to four legal and four illegal actions of an agent, each tried after the steps before.

    `chosen` has the actions of the other agents that are to act, and `start` is the number of the first action.
    """
    mask = env_step.masks[agent]
    picked = [kind[:: max(len(kind) // 4, 1)][:4] for kind in (np.flatnonzero(mask), np.flatnonzero(mask == 0))]
    findings, t = [], len(before)
    for k in np.concatenate(picked).tolist():
        driver.begin(5)
        for _, actions in before:
            driver.act(actions)
        what = f"{agent}, action {start + k} at step {t}"
        try:
            after: EnvStep | None = driver.act({**chosen, agent: start + k})
        except Exception as error:
            after = None
            if mask[k]:
                findings.append(f"{what}: the mask says legal, but it raised {type(error).__name__}: {error}")
        if mask[k] or after is None or not after.actors:
            continue
        if len(env_step.actors) == 1 and not same(after.observations, env_step.observations):
            findings.append(f"{what}: the mask says illegal, but it was taken; raise, end the episode, or do nothing")
    return findings


def own_checker(make: Callable[[], Any], effort: CheckBudget) -> list[str]:
    """Run the framework's own checker: Gymnasium's check_env, or PettingZoo's tests."""
    driver = EnvDriver(make)
    with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        if driver.kind == "gymnasium":
            from gymnasium.utils.env_checker import check_env

            check_env(driver.env, skip_render_check=True)
            return []
        from pettingzoo.test import api_test, parallel_api_test

        (api_test if driver.kind == "aec" else parallel_api_test)(driver.env, num_cycles=min(effort.steps, 200))
    return []


PROPERTIES: dict[str, Callable[[Callable[[], Any], CheckBudget], list[str]]] = {
    "its framework's own checker passes": own_checker,
    "same seed, same episodes": one_seed_one_episode,
    "another seed, another episode": another_seed_another_episode,
    "observations lie in their spaces": spaces_hold_what_is_seen,
    "masks tell the truth": masks_tell_the_truth,
}


def check_env(make: Callable[[], Any], effort: CheckBudget) -> Iterator[Result]:
    """Yield the result of every property of the environment that `make()` returns."""
    if not callable(make):
        raise UsageError(f"{one_line(make)[:60]} is not a class or function that makes an environment")
    module = sys.modules.get(getattr(make, "__module__", ""))
    files = {str(getattr(module, "__file__", ""))}
    result = run("it can be made", lambda: [] if EnvDriver(make) else [], files)
    yield result
    if result.status != "pass":
        return
    for name, test in PROPERTIES.items():
        yield run(name, partial(test, make, effort), files)
