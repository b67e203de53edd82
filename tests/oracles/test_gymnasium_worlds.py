"""The lab's classic control worlds against Gymnasium's: steps from the same states with the same actions are equal.

An `Oracle` for each world says which states are stepped, how closely results must agree, and which branches of the
original's code must be reached.

Tolerances. One step of ours rounds a few dozen times in single precision, the original rounds in double, so
the difference is ours. A number of magnitude m is rounded by up to m * EPS / 2; so each tolerance is 3 EPS
times the sum of the magnitudes of the terms added up for that field, where a sine or cosine counts as 1,
because rl_lab.core.trig's error (2e-7, below 2 EPS) is absolute. Acrobot computes in double: see there.

Termination may differ only where the original's own value lies within that tolerance of the threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from scipy import stats

from rl_lab.core.world import World
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

Floats = NDArray[np.float64]
Masks = dict[str, NDArray[np.bool_]]

EPS = 2.0**-23  # from 1 to the next single-precision number
ROUNDING = 3 * EPS
FULL_TURN = 2 * math.pi
MAX_ANGLE = math.radians(12)
N, ROUNDS = 512, 200  # 102,400 steps
MAX_DIFFERING_SHARE = 1e-4  # of steps, whose state is at a threshold
MIN_VISITS = 50  # of a branch, in steps


@dataclass(frozen=True)
class Oracle:
    """What the tests must know of one of Gymnasium's worlds; states are float64 [N, F] in the order of its fields."""

    id: str
    fields: tuple[str, ...]
    low: tuple[float, ...]  # of states that are stepped
    high: tuple[float, ...]
    borders: tuple[tuple[int, float], ...]  # field and value around which more states are stepped
    start: tuple[tuple[float, float], ...]  # range of each field after reset
    continuing: tuple[float, ...]  # a state from which action 0 does not end the episode
    branches: Callable[[Floats, Floats], Masks]  # of states before and after the original's step
    tolerance: Callable[[Floats, Floats], Floats]  # [N, F] from states before and actions
    near: Callable[[Floats, Floats], NDArray[np.bool_]]  # original's state within tolerance of a threshold
    reward_size: Callable[[Floats, Floats, NDArray[np.bool_]], Floats]  # magnitude; 0 where it must be equal
    observation_tolerance: Callable[[Floats], Floats]  # from the tolerance of the state
    ending: tuple[float, ...] | None = None  # a state from which action 0 ends the episode
    angles: tuple[int, ...] = ()  # indices of fields that are the same modulo a full turn
    precision: type = np.float64  # of the original's state


def must_be_equal(before: Floats, actions: Floats, terminated: NDArray[np.bool_]) -> Floats:
    """Return zeros: the rewards must be equal."""
    return np.zeros(len(before))


def same_as_state(tolerance: Floats) -> Floats:
    """Return the tolerance of the state: the observation is the state."""
    return tolerance


# CartPole. Accelerations grow with the square of the angular velocity; the sine's coefficients are bounded by these
# sums.


def cartpole_tolerance(before: Floats, actions: Floats) -> Floats:
    x, velocity, angle, angular_velocity = np.abs(before).T
    force_term = (10.0 + 0.05 * angular_velocity**2) / 1.1
    angular_acceleration = (9.8 + force_term) / (0.5 * (4 / 3 - 0.1 / 1.1))
    acceleration = force_term + 0.05 * angular_acceleration / 1.1
    sums = (
        x + 0.02 * velocity,
        velocity + 0.02 * acceleration,
        angle + 0.02 * angular_velocity,
        angular_velocity + 0.02 * angular_acceleration,
    )
    return ROUNDING * np.stack(sums, axis=1)


def cartpole_near(after: Floats, tolerance: Floats) -> NDArray[np.bool_]:
    distance = np.abs(np.abs(after[:, [0, 2]]) - [2.4, MAX_ANGLE])
    return (distance <= tolerance[:, [0, 2]]).any(axis=1)


def cartpole_branches(before: Floats, after: Floats) -> Masks:
    x, _, angle, _ = after.T
    off_track, fallen = np.abs(x) > 2.4, np.abs(angle) > MAX_ANGLE
    return {
        "off the track on the left": (x < -2.4) & ~fallen,
        "off the track on the right": (x > 2.4) & ~fallen,
        "fallen to the left": (angle < -MAX_ANGLE) & ~off_track,
        "fallen to the right": (angle > MAX_ANGLE) & ~off_track,
        "off the track and fallen": off_track & fallen,
        "going on": ~off_track & ~fallen,
    }


# The two mountain cars. The cosine's argument is rounded too, three times the position.


def car_tolerance(before: Floats, actions: Floats) -> Floats:
    position, velocity = np.abs(before).T
    new_velocity = velocity + 0.0015 + 0.0025 * (1 + 3 * position)
    return ROUNDING * np.stack((position + new_velocity, new_velocity), axis=1)


def car_near(goal: float) -> Callable[[Floats, Floats], NDArray[np.bool_]]:
    def near(after: Floats, tolerance: Floats) -> NDArray[np.bool_]:
        (position, velocity), (position_tolerance, velocity_tolerance) = after.T, tolerance.T
        at_goal = (np.abs(position - goal) <= position_tolerance) | (np.abs(velocity) <= velocity_tolerance)
        return at_goal | (np.abs(position + 1.2) <= position_tolerance)

    return near


def car_branches(goal: float) -> Callable[[Floats, Floats], Masks]:
    def branches(before: Floats, after: Floats) -> Masks:
        position, velocity = after.T
        wall, edge, fastest = np.float32([-1.2, 0.6, 0.07])
        return {
            "goal": (position >= goal) & (velocity >= 0),
            "over the goal backwards": (position >= goal) & (velocity < 0),
            "stopped by the wall": (position <= wall + EPS) & (velocity == 0) & (before[:, 1] < 0),
            "at the right edge": np.abs(position - edge) < EPS,
            "fastest to the left": np.abs(velocity + fastest) < EPS / 10,
            "fastest to the right": np.abs(velocity - fastest) < EPS / 10,
            "going on": (position < goal) & (position > wall + EPS) & (np.abs(velocity) < 0.0699),
        }

    return branches


def fuel(before: Floats, actions: Floats, terminated: NDArray[np.bool_]) -> Floats:
    return 100.0 * terminated + 0.1 * actions[:, 0] ** 2


# Pendulum. Ours keeps the angle within a turn, so a rounding of pi comes in.


def pendulum_tolerance(before: Floats, actions: Floats) -> Floats:
    angle, angular_velocity = np.abs(before).T
    new_angular_velocity = angular_velocity + 0.05 * (15 + 3 * np.abs(actions[:, 0]))
    return ROUNDING * np.stack((angle + 0.05 * new_angular_velocity + math.pi, new_angular_velocity), axis=1)


def pendulum_branches(before: Floats, after: Floats) -> Masks:
    angle, angular_velocity = after.T
    return {
        "fastest clockwise": angular_velocity == -8,
        "fastest counterclockwise": angular_velocity == 8,
        "through the bottom clockwise": angle < -math.pi,
        "through the bottom counterclockwise": angle > math.pi,
        "going on": (np.abs(angular_velocity) < 8) & (np.abs(angle) < math.pi),
    }


def pendulum_cost(before: Floats, actions: Floats, terminated: NDArray[np.bool_]) -> Floats:
    return before[:, 0] ** 2 + 0.1 * before[:, 1] ** 2 + 0.001 * actions[:, 0] ** 2


# Acrobot. At the highest speeds one step of Runge and Kutta multiplies an error some 1e4 times. Single
# precision would be off by 0.01; so ours computes in double too, held to 1e4 times what double resolves.


def acrobot_tolerance(before: Floats, actions: Floats) -> Floats:
    return np.broadcast_to(1e4 * 2.0**-52 * np.array([math.pi, math.pi, 4 * math.pi, 9 * math.pi]), before.shape)


def acrobot_near(after: Floats, tolerance: Floats) -> NDArray[np.bool_]:
    height = -np.cos(after[:, 0]) - np.cos(after[:, 0] + after[:, 1])
    return np.abs(height - 1) <= 2 * tolerance[:, 0] + tolerance[:, 1]


def acrobot_branches(before: Floats, after: Floats) -> Masks:
    is_up = -np.cos(after[:, 0]) - np.cos(after[:, 0] + after[:, 1]) > 1
    return {
        "tip over the line": is_up,
        "tip under the line": ~is_up,
        "shoulder wrapped": np.abs(after[:, 0] - before[:, 0]) > math.pi,
        "elbow wrapped": np.abs(after[:, 1] - before[:, 1]) > math.pi,
        "shoulder fastest clockwise": after[:, 2] == -4 * math.pi,
        "shoulder fastest counterclockwise": after[:, 2] == 4 * math.pi,
        "elbow fastest clockwise": after[:, 3] == -9 * math.pi,
        "elbow fastest counterclockwise": after[:, 3] == 9 * math.pi,
    }


def never_near(after: Floats, tolerance: Floats) -> NDArray[np.bool_]:
    """Return False for all states: there is no threshold."""
    return np.zeros(len(after), np.bool_)


# A cosine or sine is as far off as its angle, and approximated and rounded on top.
TRIG = ROUNDING

ORACLES = {
    "cartpole": Oracle(
        "CartPole-v1",
        fields=("x", "velocity", "angle", "spin"),
        low=(-2.4, -5, -MAX_ANGLE, -5),
        high=(2.4, 5, MAX_ANGLE, 5),
        borders=((0, -2.4), (0, 2.4), (2, -MAX_ANGLE), (2, MAX_ANGLE)),
        start=((-0.05, 0.05),) * 4,
        continuing=(0, 0, 0, 0),
        ending=(-2.39, -2, 0, 0),
        branches=cartpole_branches,
        tolerance=cartpole_tolerance,
        near=cartpole_near,
        reward_size=must_be_equal,
        observation_tolerance=same_as_state,
    ),
    "mountain_car": Oracle(
        "MountainCar-v0",
        fields=("position", "velocity"),
        low=(-1.2, -0.07),
        high=(0.6, 0.07),
        borders=((0, -1.2), (0, 0.5), (0, 0.6), (1, -0.07), (1, 0.0), (1, 0.07)),
        start=((-0.6, -0.4), (0, 0)),
        continuing=(-0.5, 0),
        ending=(0.49, 0.05),
        branches=car_branches(0.5),
        tolerance=car_tolerance,
        near=car_near(0.5),
        reward_size=must_be_equal,
        observation_tolerance=same_as_state,
    ),
    "mountain_car_continuous": Oracle(
        "MountainCarContinuous-v0",
        fields=("position", "velocity"),
        low=(-1.2, -0.07),
        high=(0.6, 0.07),
        borders=((0, -1.2), (0, 0.45), (0, 0.6), (1, -0.07), (1, 0.0), (1, 0.07)),
        start=((-0.6, -0.4), (0, 0)),
        continuing=(-0.5, 0),
        ending=(0.44, 0.05),
        branches=car_branches(0.45),
        tolerance=car_tolerance,
        near=car_near(0.45),
        reward_size=fuel,
        observation_tolerance=same_as_state,
        precision=np.float32,
    ),
    "pendulum": Oracle(
        "Pendulum-v1",
        fields=("angle", "spin"),
        low=(-math.pi, -8),
        high=(math.pi, 8),
        borders=((0, -math.pi), (0, math.pi), (1, -8), (1, 8)),
        start=((-math.pi, math.pi), (-1, 1)),
        continuing=(0, 0),
        branches=pendulum_branches,
        tolerance=pendulum_tolerance,
        near=never_near,
        reward_size=pendulum_cost,
        observation_tolerance=lambda t: np.stack((t[:, 0] + TRIG, t[:, 0] + TRIG, t[:, 1]), axis=1),
        angles=(0,),
    ),
    "acrobot": Oracle(
        "Acrobot-v1",
        fields=("shoulder", "elbow", "shoulder_spin", "elbow_spin"),
        low=(-math.pi, -math.pi, -4 * math.pi, -9 * math.pi),
        high=(math.pi, math.pi, 4 * math.pi, 9 * math.pi),
        borders=((0, -math.pi), (0, math.pi), (1, -math.pi), (1, math.pi)),
        start=((-0.1, 0.1),) * 4,
        continuing=(0, 0, 0, 0),
        ending=(3, 0, 0, 0),
        branches=acrobot_branches,
        tolerance=acrobot_tolerance,
        near=acrobot_near,
        reward_size=must_be_equal,
        # The state agrees much better than its rounding to single precision, half an EPS of the bound.
        observation_tolerance=lambda t: np.broadcast_to(
            EPS * np.array([1, 1, 1, 1, 4 * math.pi, 9 * math.pi]), (len(t), 6)
        ),
        angles=(0, 1),
    ),
}

pytestmark = pytest.mark.parametrize("name", ORACLES)


def random_states(oracle: Oracle, rng: np.random.Generator, n: int) -> Floats:
    """Return n random states, float64 [n, F]; half of them have one field at or close to a border."""
    low, high = np.array(oracle.low), np.array(oracle.high)
    states = rng.uniform(low, high, (n, len(low)))
    for row in states[: n // 2]:
        field, border = oracle.borders[rng.integers(len(oracle.borders))]
        distance = 0.02 * (high - low)[field] * rng.normal() * rng.integers(0, 2)
        row[field] = np.clip(border + distance, low[field], high[field])
    return states


def random_actions(world: World, rng: np.random.Generator, n: int) -> NDArray[np.generic]:
    if isinstance(world.action, Discrete):
        return rng.integers(0, world.action.n, n)
    actions = rng.uniform(world.action.low, world.action.high, (n, *world.action.shape)).astype(np.float32)
    is_extreme = rng.random(n) < 0.2
    actions[is_extreme] = np.where(rng.random((is_extreme.sum(), 1)) < 0.5, world.action.low, world.action.high)
    return actions


def fields_of(batch: Batch, oracle: Oracle) -> Floats:
    """Return the batch's states, float64 [N, F]."""
    return np.stack([batch.states[field] for field in oracle.fields], axis=1).astype(np.float64)


def set_states(batch: Batch, oracle: Oracle, states: Floats, where: slice) -> None:
    """Write states, float64 [., F], to these worlds of the batch, in which new episodes begin."""
    for field, values in zip(oracle.fields, states.T, strict=True):
        batch.states[field][where] = values
    batch.states["t"][where] = 0
    batch.done[where] = False


def step_original(oracle: Oracle, env: gym.Env, states: Floats, actions: NDArray[np.generic]) -> tuple:
    """Return the original's states, observations, rewards and terminations after one step from each state."""
    after, observations, rewards, terminations = [], [], [], []
    unwrapped = env.unwrapped
    for state, action in zip(states.astype(oracle.precision), actions, strict=True):
        unwrapped.state, unwrapped.steps_beyond_terminated = state, None
        observation, reward, terminated, _, _ = unwrapped.step(action)
        after.append(np.array(unwrapped.state, np.float64))
        observations.append(observation)
        rewards.append(reward)
        terminations.append(terminated)
    return np.array(after), np.array(observations), np.array(rewards), np.array(terminations)


@dataclass
class Step:
    """One step of all worlds, ours and the original's, from the same states, float64 [N, F]."""

    before: Floats
    after: Floats  # the original's
    terminated: NDArray[np.bool_]  # the original's
    difference: Floats  # ours less the original's, in tolerances
    differs: NDArray[np.bool_]  # where any output is out of tolerance, or termination is not the same


def step_both(oracle: Oracle, batch: Batch, env: gym.Env, actions: NDArray[np.generic]) -> Step:
    """Step both and fail where they differ, unless the original's own state is at a threshold."""
    before = fields_of(batch, oracle)
    batch.actions[:, 0] = actions
    batch.step()
    after, observations, rewards, terminated = step_original(oracle, env, before, actions)

    numbers = actions.reshape(len(actions), -1).astype(np.float64)
    tolerance = oracle.tolerance(before, numbers)
    difference = fields_of(batch, oracle) - after
    for field in oracle.angles:
        difference[:, field] -= FULL_TURN * np.round(difference[:, field] / FULL_TURN)
    differs = (np.abs(difference) > tolerance).any(axis=1)
    observation_difference = np.abs(batch.observations[:, 0].astype(np.float64) - observations)
    differs |= (observation_difference > oracle.observation_tolerance(tolerance)).any(axis=1)
    differs |= np.abs(batch.rewards[:, 0] - rewards) > ROUNDING * oracle.reward_size(before, numbers, terminated)
    differs |= batch.terminated != terminated

    failed = differs & ~oracle.near(after, tolerance)
    assert not failed.any(), (before[failed], actions[failed], difference[failed], tolerance[failed])
    assert all(batch.world.observation.contains(row) for row in batch.observations[:, 0])
    return Step(before, after, terminated, difference / tolerance, differs)


def test_every_step_is_gymnasiums(name: str) -> None:
    """Half of the worlds play episodes of random actions; half are set to random states before each step."""
    oracle, world, rng = ORACLES[name], world_registry.load(name), np.random.default_rng(0)
    env = gym.make(oracle.id, disable_env_checker=True)
    env.reset(seed=0)
    batch = Batch(world, N, seed=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    num_differing, largest_difference, visits = 0, 0.0, Counter()
    for _ in range(ROUNDS):
        set_states(batch, oracle, random_states(oracle, rng, N // 2), slice(N // 2, None))
        step = step_both(oracle, batch, env, random_actions(world, rng, N))
        num_differing += int(step.differs.sum())
        largest_difference = max(largest_difference, float(np.abs(step.difference[~step.differs]).max()))
        visits.update({k: int(mask.sum()) for k, mask in oracle.branches(step.before, step.after).items()})
        batch.reset(batch.done)
    assert num_differing <= MAX_DIFFERING_SHARE * N * ROUNDS
    assert min(visits.values()) >= MIN_VISITS, visits
    # A tolerance far above the differences would hide a mistake.
    assert largest_difference > 0.01


def test_episodes_end_at_the_same_threshold(name: str) -> None:
    """Bisect between a state that ends the episode and one that does not, down to neighbouring numbers."""
    oracle, world, rng = ORACLES[name], world_registry.load(name), np.random.default_rng(0)
    if oracle.ending is None:
        pytest.skip("never ends")
    env = gym.make(oracle.id, disable_env_checker=True)
    env.reset(seed=0)
    batch = Batch(world, N, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    actions = random_actions(world, rng, N)
    ending, continuing = np.empty((2, N, len(oracle.fields)))
    missing_pairs = np.ones((2, N), np.bool_)
    while missing_pairs.any():
        set_states(batch, oracle, random_states(oracle, rng, N), slice(None))
        step = step_both(oracle, batch, env, actions)
        for states, is_missing, is_such in zip(
            (ending, continuing), missing_pairs, (step.terminated, ~step.terminated), strict=True
        ):
            states[is_missing & is_such] = step.before[is_missing & is_such]
            is_missing &= ~is_such
    for _ in range(30):
        set_states(batch, oracle, (ending + continuing) / 2, slice(None))
        step = step_both(oracle, batch, env, actions)
        terminated = step.terminated[:, None]
        ending, continuing = np.where(terminated, step.before, ending), np.where(terminated, continuing, step.before)
    assert np.abs(ending - continuing).max() < 1e-5


def test_episodes_are_truncated_at_the_same_step(name: str) -> None:
    """World 0 is set to a state that does not end until it is truncated; world 1 terminates in the same step."""
    oracle, world = ORACLES[name], world_registry.load(name)
    batch = Batch(world, 2, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    envs = [gym.make(oracle.id, disable_env_checker=True) for _ in range(2)]
    for env in envs:
        env.reset(seed=0)
    action = 0 if isinstance(world.action, Discrete) else np.zeros(1, np.float32)
    states = np.array([oracle.continuing, oracle.continuing], np.float64)
    for step in range(1, world.horizon + 1):
        last = step == world.horizon
        if last and oracle.ending:
            states[1] = oracle.ending
        expected_flags = []
        for env, state in zip(envs, states.astype(oracle.precision), strict=True):
            env.unwrapped.state = state
            expected_flags.append(env.step(action)[2:4])
        for field, values in zip(oracle.fields, states.T, strict=True):
            batch.states[field] = values
        batch.step()
        assert expected_flags == [(False, last), (last and oracle.ending is not None, last)]
        assert list(zip(batch.terminated, batch.truncated, strict=True)) == expected_flags
    assert batch.episode_lengths.tolist() == [world.horizon] * 2


def test_initial_states_have_the_same_distribution(name: str) -> None:
    """Kolmogorov-Smirnov tests of each field, against the original's initial states and the uniform distribution.

    The seed is fixed. At another, a correct world fails with probability 2e-4 a field, 2.4e-3 over all 12.
    """
    oracle, world = ORACLES[name], world_registry.load(name)
    batch = Batch(world, 10_000, seed=7)
    batch.reset()
    first = fields_of(batch, oracle)
    batch.reset()
    lab_states = np.concatenate((first, fields_of(batch, oracle)))
    env = gym.make(oracle.id, disable_env_checker=True)
    env.reset(seed=7)
    gymnasium_states = []
    for _ in range(5_000):
        env.reset()
        gymnasium_states.append(np.array(env.unwrapped.state))
    for values, original, (low, high) in zip(lab_states.T, np.array(gymnasium_states).T, oracle.start, strict=True):
        for values_seen in (values, original):
            assert np.float32(low) <= values_seen.min() <= values_seen.max() <= np.float32(high)
        if low < high:
            assert stats.ks_2samp(values, original, method="asymp").pvalue > 1e-4
            assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert len(np.unique(lab_states, axis=0)) > 0.99 * len(
        lab_states
    )  # of 2**24 possible states, a few may occur twice


def test_spaces_horizon_and_reward_threshold_are_gymnasiums(name: str) -> None:
    oracle, world = ORACLES[name], world_registry.load(name)
    env = gym.make(oracle.id, disable_env_checker=True)
    assert world.observation == env.observation_space
    assert world.action == env.action_space
    assert world.reward_threshold == gym.spec(oracle.id).reward_threshold
    assert world.horizon == gym.spec(oracle.id).max_episode_steps
