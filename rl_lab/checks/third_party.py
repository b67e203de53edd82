"""This module has the suite of `rl-lab check` for Gymnasium and PettingZoo environments: seeds, spaces, action masks.

`check_env` runs the functions of PROPERTIES one after the other and yields a `PropertyResult` for each. A property
takes a function that makes the environment, makes its own instances, and returns findings, one line for each mistake.
"""

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

from rl_lab.checks.env_driver import EnvDriver, EnvStep, bitwise_equal, random_episode
from rl_lab.checks.subject import CheckBudget, PropertyResult, Skip
from rl_lab.checks.suite import run_property
from rl_lab.core.errors import UsageError, one_line

EPISODES = 3  # of each property
_FIRST_SEED, _MASK_SEED = 11, 5  # of the environments


def same_seed_same_episode(make: Callable[[], Any], budget: CheckBudget) -> list[str]:
    """Compare episodes of two instances, and of the first instance again: reset(seed) must determine the episode."""
    one, other = EnvDriver(make), EnvDriver(make)
    for number in range(EPISODES):
        seed = _FIRST_SEED + number
        first = list(random_episode(one, seed, budget.steps, number))
        for what, driver in (("another instance", other), ("the same instance again", one)):
            again = random_episode(driver, seed, budget.steps, number)
            for t, ((a, _), (b, _)) in enumerate(zip(first, again, strict=False)):
                for name in ("observations", "masks", "outcome", "actors"):
                    if not bitwise_equal(getattr(a, name), getattr(b, name)):
                        quantity = "acting agents" if name == "actors" else name
                        difference = f"seed {seed}, step {t}: {what} differs in {quantity}"
                        return [f"{difference}; draw only from a generator that reset(seed=...) makes"]
    return []


def another_seed_another_episode(make: Callable[[], Any], budget: CheckBudget) -> list[str]:
    """Compare episodes with different seeds and the same actions; where they are equal, also episodes without seeds."""
    driver = EnvDriver(make)
    seeded = [[s.observations for s, _ in random_episode(driver, seed, budget.steps)] for seed in (1, 2, 3)]
    if not all(bitwise_equal(other, seeded[0]) for other in seeded[1:]):
        return []
    unseeded = [[s.observations for s, _ in random_episode(driver, None, budget.steps)] for _ in range(3)]
    if all(bitwise_equal(other, unseeded[0]) for other in unseeded[1:]):
        raise Skip("it draws no random numbers")
    return ["three seeds show the same, and resets without a seed differ: reset must make its generator from the seed"]


def observations_lie_in_their_spaces(make: Callable[[], Any], budget: CheckBudget) -> list[str]:
    """Check in every step that each agent's observation is in its space, and that rewards are finite."""
    driver, findings = EnvDriver(make), set()
    for number in range(EPISODES):
        for t, (env_step, _) in enumerate(random_episode(driver, number, budget.steps, number)):
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
    """Return why an observation is not in its space."""
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
    index = np.argwhere(~((observation >= space.low) & (observation <= space.high)))[0]
    at = tuple(int(k) for k in index)
    return f"{observation[at]:g} at {list(at)} is outside {space.low[at]:g} to {space.high[at]:g}"


def masks_tell_the_truth(make: Callable[[], Any], budget: CheckBudget) -> list[str]:
    """Try actions in states of an episode: legal ones must work, illegal ones must raise, end it or do nothing."""
    driver = EnvDriver(make)
    env_steps: list[tuple[EnvStep, dict[str, Any]]] = []
    try:
        for env_step in random_episode(driver, _MASK_SEED, budget.steps, 5):
            env_steps.append(env_step)
    except Exception as error:
        if not env_steps or not env_steps[-1][0].masks:
            raise
        last_actions = f"{env_steps[-1][1]} at step {len(env_steps) - 1}"
        return [f"{last_actions}: the masks say legal, but it raised {type(error).__name__}: {error}"]
    if not any(env_step.masks for env_step, _ in env_steps):
        raise Skip("it shows no masks")
    findings = []
    for t in np.unique(np.linspace(0, len(env_steps) - 1, budget.states).astype(int)).tolist():
        env_step, step_actions = env_steps[t]
        for agent in env_step.actors if step_actions else ():
            mask, space = env_step.masks.get(agent), driver.spaces(agent)[1]
            if mask is None or not isinstance(space, Discrete):
                continue
            if mask.shape != (space.n,) or not np.isin(mask, (0, 1)).all():
                findings.append(f"{agent} at step {t}: the mask must be {int(space.n)} numbers, 0 or 1")
            elif not mask.any():
                findings.append(f"{agent} has to act at step {t} and has no legal action")
            else:
                findings += _try_actions(driver, env_steps[:t], env_step, {**step_actions}, agent, int(space.start))
    return findings


def _try_actions(
    driver: EnvDriver, earlier_steps: Any, env_step: EnvStep, step_actions: Any, agent: str, start: int
) -> list[str]:
    """Return the findings of up to four legal and four illegal actions of an agent in one step of an episode.

    For each of them, the environment is reset and the earlier steps are taken again. `step_actions` has the actions of
    the other agents in this step, and `start` is the number of the first action of the agent's space.
    """
    mask = env_step.masks[agent]
    legal, illegal = np.flatnonzero(mask), np.flatnonzero(mask == 0)
    samples = [indices[:: max(len(indices) // 4, 1)][:4] for indices in (legal, illegal)]
    findings, t = [], len(earlier_steps)
    for k in np.concatenate(samples).tolist():
        driver.reset(_MASK_SEED)
        for _, actions in earlier_steps:
            driver.step(actions)
        what = f"{agent}, action {start + k} at step {t}"
        try:
            after: EnvStep | None = driver.step({**step_actions, agent: start + k})
        except Exception as error:
            after = None
            if mask[k]:
                findings.append(f"{what}: the mask says legal, but it raised {type(error).__name__}: {error}")
        if mask[k] or after is None or not after.actors:
            continue
        if len(env_step.actors) == 1 and not bitwise_equal(after.observations, env_step.observations):
            findings.append(f"{what}: the mask says illegal, but it was taken; raise, end the episode, or do nothing")
    return findings


def framework_checker_passes(make: Callable[[], Any], budget: CheckBudget) -> list[str]:
    """Run the framework's own checker, which raises for a mistake: Gymnasium's check_env, or PettingZoo's tests."""
    driver = EnvDriver(make)
    with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        if driver.api == "gymnasium":
            from gymnasium.utils.env_checker import check_env

            check_env(driver.env, skip_render_check=True)
            return []
        from pettingzoo.test import api_test, parallel_api_test

        (api_test if driver.api == "aec" else parallel_api_test)(driver.env, num_cycles=min(budget.steps, 200))
    return []


PROPERTIES: dict[str, Callable[[Callable[[], Any], CheckBudget], list[str]]] = {
    "its framework's own checker passes": framework_checker_passes,
    "same seed, same episodes": same_seed_same_episode,
    "another seed, another episode": another_seed_another_episode,
    "observations lie in their spaces": observations_lie_in_their_spaces,
    "masks tell the truth": masks_tell_the_truth,
}


def check_env(make: Callable[[], Any], budget: CheckBudget) -> Iterator[PropertyResult]:
    """Yield the result of every property of the environment that `make()` returns."""
    if not callable(make):
        raise UsageError(f"{one_line(make)[:60]} is not a class or function that makes an environment")
    module = sys.modules.get(getattr(make, "__module__", ""))
    files = {str(getattr(module, "__file__", ""))}
    result = run_property("it can be made", lambda: [] if EnvDriver(make) else [], files)
    yield result
    if result.status != "pass":
        return
    for name, test in PROPERTIES.items():
        yield run_property(name, partial(test, make, budget), files)
