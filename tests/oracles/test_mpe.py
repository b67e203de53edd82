"""The lab's multi-agent particle worlds against mpe2's: episodes of the same random actions from the same states.

`play_mpe2` records episodes of mpe2; then our batch repeats their actions. Both compute in double precision, but add
and divide in another order in places. Contacts are stiff, and multiply such differences; over an episode they stay far
below TOLERANCE. Our observations and rewards have single precision.

mpe2 is stepped through its parallel interface in the first episodes, which compares the meaning of actions and of ends,
and by its inner methods in the others, which is twice as fast.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from scipy import stats

from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

mpe2 = pytest.importorskip("mpe2")

STEPS = 25
NUM_PARALLEL_EPISODES = 20  # that are stepped through mpe2's parallel interface
TOLERANCE = 1e-9  # of positions and velocities
ROUNDING = 2.0**-22  # of single precision, relative, with room for a bit
MIN_VISITS = 100  # of a rare event, in steps
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One of mpe2's environments, the number of episodes, its settings, and our parameters for the same."""

    name: str
    version: int
    episodes: int
    continuous: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    stage: int | None = None
    params: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.lab_name}-{self.params or 'defaults'}"

    @property
    def lab_name(self) -> str:
        return f"simple_{self.name}{'_continuous' * self.continuous}"

    def original(self) -> Any:
        module = importlib.import_module(f"mpe2.simple_{self.name}_v{self.version}")
        env = module.parallel_env(continuous_actions=self.continuous, **self.settings)
        if self.stage is not None:
            env.aec_env.unwrapped.set_curriculum_stage(self.stage)
        return env


NAMES = {"spread": 3, "tag": 3, "adversary": 3, "speaker_listener": 4}
CASES = [Case(name, version, 500, continuous) for name, version in NAMES.items() for continuous in (False, True)]
CASES += [
    Case("spread", 3, 20, settings={"local_ratio": 0.2}, params={"local_ratio": 0.2}),
    Case("tag", 3, 20, settings={"curriculum": True}, stage=0, params={"prey_speed": 0.5}),
]


@dataclass
class Episodes:
    """N recorded episodes of mpe2, of T steps and A agents."""

    landmarks: Floats  # [N, L, 2]
    goals: NDArray[np.int64]  # [N], 0 where there is none
    actions: NDArray[Any]  # [T, N, A] or [T, N, A, k]
    positions: Floats  # [T + 1, N, A, 2]
    velocities: Floats
    observations: Floats  # [T + 1, N, A, numbers], zeros where an agent observes fewer
    rewards: Floats  # [T, N, A]


def random_actions(case: Case, rng: np.random.Generator) -> NDArray[Any]:
    """Return actions [T, N, A, ...]; every other episode repeats most of them, so that agents get fast and far."""
    world = world_registry.load(case.lab_name)
    shape = (STEPS, case.episodes, len(world.agents), *world.action_shape)
    actions = np.zeros(shape, world.action_dtype)
    for a, space in enumerate(world.action_spaces):
        if isinstance(space, Box):
            size = space.shape[0]
            actions[:, :, a, :size] = rng.random((*shape[:2], size), np.float32)
        else:
            actions[:, :, a] = rng.integers(space.n, size=shape[:2])
    for t in range(1, STEPS):
        is_repeated = (rng.random((case.episodes, len(world.agents))) < 0.8) & (np.arange(case.episodes) % 2 == 0)[
            :, None
        ]
        actions[t][is_repeated] = actions[t - 1][is_repeated]
    return actions


def goal(world: Any) -> int:
    """Return the index of the landmark that is the goal in mpe2, 0 where there is none."""
    landmark = getattr(world.agents[0], "_goal_b", None) or getattr(world.agents[0], "_goal_a", None)
    return world.landmarks.index(landmark) if landmark in world.landmarks else 0


def play_mpe2(case: Case) -> Episodes:
    """Play the episodes of a case in mpe2 with random actions; return them."""
    env, world = case.original(), world_registry.load(case.lab_name)
    aec_env = env.aec_env.unwrapped
    mpe2_world = aec_env.world
    assert tuple(env.possible_agents) == world.agents
    for agent, observed, action_space in zip(world.agents, world.observation_spaces, world.action_spaces, strict=True):
        assert env.observation_space(agent) == observed and env.action_space(agent) == action_space
    rng = np.random.default_rng(list(case.lab_name.encode()))
    actions = random_actions(case, rng)
    n, agents = case.episodes, len(world.agents)
    positions, velocities = np.zeros((2, STEPS + 1, n, agents, 2))
    observations = np.zeros((STEPS + 1, n, agents, *world.observation.shape))
    rewards = np.zeros((STEPS, n, agents))
    landmarks, goals = np.zeros((n, len(mpe2_world.landmarks), 2)), np.zeros(n, np.int64)
    sizes = [space.shape[0] if isinstance(space, Box) else 0 for space in world.action_spaces]

    def record(t: int, i: int, observed: dict[str, Any]) -> None:
        for a, (name, agent) in enumerate(zip(world.agents, mpe2_world.agents, strict=True)):
            positions[t, i, a], velocities[t, i, a] = agent.state.p_pos, agent.state.p_vel
            observations[t, i, a, : len(observed[name])] = observed[name]

    for i in range(n):
        env.reset(seed=i) if i < NUM_PARALLEL_EPISODES else aec_env.reset(seed=i)
        record(0, i, {name: aec_env.observe(name) for name in world.agents})
        landmarks[i], goals[i] = [landmark.state.p_pos for landmark in mpe2_world.landmarks], goal(mpe2_world)
        for t in range(STEPS):
            agent_actions = [row[:size] if size else int(row) for row, size in zip(actions[t, i], sizes, strict=True)]
            if i < NUM_PARALLEL_EPISODES:
                observed, step_rewards, terminations, truncations, _ = env.step(
                    dict(zip(world.agents, agent_actions, strict=True))
                )
                assert not any(terminations.values()) and all(each == (t == STEPS - 1) for each in truncations.values())
            else:
                aec_env.current_actions = agent_actions
                aec_env._execute_world_step()
                observed, step_rewards = {name: aec_env.observe(name) for name in world.agents}, aec_env.rewards
            record(t + 1, i, observed)
            rewards[t, i] = [step_rewards[name] for name in world.agents]
    env.close()
    return Episodes(landmarks, goals, actions, positions, velocities, observations, rewards)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_episodes_are_those_of_mpe2(case: Case) -> None:
    mpe2_episodes = play_mpe2(case)
    world = world_registry.load(case.lab_name)
    batch = Batch(world, case.episodes, world.Params(**case.params), threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    batch.states["position"], batch.states["velocity"] = mpe2_episodes.positions[0], mpe2_episodes.velocities[0]
    batch.states["boulder" if case.name == "tag" else "landmark"] = mpe2_episodes.landmarks
    if "goal" in (world.State.dtype.names or ()):
        batch.states["goal"] = mpe2_episodes.goals
    np.testing.assert_allclose(batch.observe(), mpe2_episodes.observations[0], rtol=ROUNDING, atol=TOLERANCE)
    for t in range(STEPS):
        batch.actions[...] = mpe2_episodes.actions[t]
        batch.step()
        where = f"step {t}"
        for name, values in ("position", mpe2_episodes.positions), ("velocity", mpe2_episodes.velocities):
            np.testing.assert_allclose(batch.states[name], values[t + 1], rtol=0, atol=TOLERANCE, err_msg=where)
        np.testing.assert_allclose(
            batch.observations, mpe2_episodes.observations[t + 1], rtol=ROUNDING, atol=TOLERANCE, err_msg=where
        )
        np.testing.assert_allclose(
            batch.rewards, mpe2_episodes.rewards[t], rtol=ROUNDING, atol=TOLERANCE, err_msg=where
        )
        assert not batch.terminated.any() and (batch.truncated == (t == STEPS - 1)).all()
    assert batch.done.all()
    if case.episodes >= 500:
        assert_rare_events(case, mpe2_episodes)


def assert_rare_events(case: Case, mpe2_episodes: Episodes) -> None:
    """Fail unless collisions, speed limits, borders and both goals have occurred often."""
    positions, speeds = mpe2_episodes.positions, np.linalg.norm(mpe2_episodes.velocities, axis=-1)
    if case.name == "spread":
        collided = (mpe2_episodes.rewards != mpe2_episodes.rewards[:, :, :1]).any(axis=-1)
        assert collided.sum() > MIN_VISITS
    elif case.name == "tag":
        limits = np.array([1.0, 1.0, 1.0, 1.3])
        assert ((speeds > limits - 1e-9).sum(axis=(0, 1)) > MIN_VISITS).all()
        distances = np.linalg.norm(positions[:, :, :, None] - mpe2_episodes.landmarks[None, :, None], axis=-1)
        assert (distances < 0.25).sum() > MIN_VISITS and (mpe2_episodes.rewards[..., 0] > 0).sum() > MIN_VISITS
        assert (np.abs(positions[:, :, 3]) > 1.0).sum() > MIN_VISITS
    else:
        assert np.bincount(mpe2_episodes.goals).min() > MIN_VISITS


@pytest.mark.parametrize("name", NAMES)
def test_initial_states_have_the_distribution_of_mpe2(name: str) -> None:
    """Kolmogorov-Smirnov tests of each coordinate, which is uniform in mpe2; of new seeds, one in 10,000 fails."""
    world, n = world_registry.load(f"simple_{name}"), 4000
    batch = Batch(world, n, seed=1, threads=1)
    batch.reset()
    landmark_field = "boulder" if name == "tag" else "landmark"
    columns = []
    for field_name, bound in (("position", 1.0), (landmark_field, 0.9 if name == "tag" else 1.0)):
        coordinates = batch.states[field_name].reshape(n, -1) / bound
        assert coordinates.min() >= -1 and coordinates.max() < 1
        columns += list(coordinates.T)
    pvalues = [stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue for column in columns]
    assert min(pvalues) > 1e-4 / (2 * len(columns))
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 6 / np.sqrt(n)
    assert not batch.states["velocity"].any()
    if "goal" in (world.State.dtype.names or ()):
        counts = np.bincount(batch.states["goal"], minlength=len(batch.states[landmark_field][0]))
        assert stats.chisquare(counts).pvalue > 1e-4 / 2
