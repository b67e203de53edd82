"""Our multi-agent particle worlds beside mpe2's: from the same states, whole episodes of the same random actions.

Both compute in double precision, but add and divide in another order in places. Contacts are stiff, and multiply such
differences; over an episode they stay far below TOLERANCE. Observations and rewards are single precision in ours.

mpe2 is stepped through its parallel interface in the first episodes, which shows that we mean the same by an action and
the end of an episode, and from below it in the rest, which is twice as fast.
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
PUBLIC = 20  # episodes through mpe2's parallel interface
TOLERANCE = 1e-9  # of positions and velocities
ROUNDING = 2.0**-22  # of single precision, relative, with room for a bit
ENOUGH = 100  # visits to what is rare
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One of mpe2's environments and how often it is played; its settings, and ours for the same."""

    name: str
    version: int
    episodes: int
    continuous: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    stage: int | None = None
    params: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.ours}-{self.params or 'defaults'}"

    @property
    def ours(self) -> str:
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
class Played:
    """What mpe2 showed: N episodes of T steps, A agents."""

    landmarks: Floats  # [N, L, 2]
    goals: NDArray[np.int64]  # [N], 0 where there is none
    actions: NDArray[Any]  # [T, N, A] or [T, N, A, k]
    positions: Floats  # [T + 1, N, A, 2]
    velocities: Floats
    observations: Floats  # [T + 1, N, A, numbers], zeros where an agent sees fewer
    rewards: Floats  # [T, N, A]


def random_actions(case: Case, rng: np.random.Generator) -> NDArray[Any]:
    """Actions [T, N, A, ...], in every other episode kept up for a while: so agents get fast, and far."""
    world = world_registry.load(case.ours)
    shape = (STEPS, case.episodes, len(world.agents), *world.action_shape)
    actions = np.zeros(shape, world.action_dtype)
    for a, space in enumerate(world.action_spaces):
        if isinstance(space, Box):
            size = space.shape[0]
            actions[:, :, a, :size] = rng.random((*shape[:2], size), np.float32)
        else:
            actions[:, :, a] = rng.integers(space.n, size=shape[:2])
    for t in range(1, STEPS):
        kept = (rng.random((case.episodes, len(world.agents))) < 0.8) & (np.arange(case.episodes) % 2 == 0)[:, None]
        actions[t][kept] = actions[t - 1][kept]
    return actions


def goal(world: Any) -> int:
    """Return which landmark mpe2 has made the goal."""
    found = getattr(world.agents[0], "_goal_b", None) or getattr(world.agents[0], "_goal_a", None)
    return world.landmarks.index(found) if found in world.landmarks else 0


def played(case: Case) -> Played:
    env, ours = case.original(), world_registry.load(case.ours)
    inner = env.aec_env.unwrapped
    scene = inner.world
    assert tuple(env.possible_agents) == ours.agents
    for agent, seen, done in zip(ours.agents, ours.observation_spaces, ours.action_spaces, strict=True):
        assert env.observation_space(agent) == seen and env.action_space(agent) == done
    rng = np.random.default_rng(list(case.ours.encode()))
    actions = random_actions(case, rng)
    n, agents = case.episodes, len(ours.agents)
    positions, velocities = np.zeros((2, STEPS + 1, n, agents, 2))
    observations = np.zeros((STEPS + 1, n, agents, *ours.observation.shape))
    rewards = np.zeros((STEPS, n, agents))
    landmarks, goals = np.zeros((n, len(scene.landmarks), 2)), np.zeros(n, np.int64)
    sizes = [space.shape[0] if isinstance(space, Box) else 0 for space in ours.action_spaces]

    def note(t: int, i: int, seen: dict[str, Any]) -> None:
        for a, (name, agent) in enumerate(zip(ours.agents, scene.agents, strict=True)):
            positions[t, i, a], velocities[t, i, a] = agent.state.p_pos, agent.state.p_vel
            observations[t, i, a, : len(seen[name])] = seen[name]

    for i in range(n):
        env.reset(seed=i) if i < PUBLIC else inner.reset(seed=i)
        note(0, i, {name: inner.observe(name) for name in ours.agents})
        landmarks[i], goals[i] = [landmark.state.p_pos for landmark in scene.landmarks], goal(scene)
        for t in range(STEPS):
            given = [row[:size] if size else int(row) for row, size in zip(actions[t, i], sizes, strict=True)]
            if i < PUBLIC:
                seen, paid, over, late, _ = env.step(dict(zip(ours.agents, given, strict=True)))
                assert not any(over.values()) and all(each == (t == STEPS - 1) for each in late.values())
            else:
                inner.current_actions = given
                inner._execute_world_step()
                seen, paid = {name: inner.observe(name) for name in ours.agents}, inner.rewards
            note(t + 1, i, seen)
            rewards[t, i] = [paid[name] for name in ours.agents]
    env.close()
    return Played(landmarks, goals, actions, positions, velocities, observations, rewards)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_episodes_are_those_of_mpe2(case: Case) -> None:
    theirs = played(case)
    world = world_registry.load(case.ours)
    batch = Batch(world, case.episodes, world.Params(**case.params), threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    batch.states["position"], batch.states["velocity"] = theirs.positions[0], theirs.velocities[0]
    batch.states["boulder" if case.name == "tag" else "landmark"] = theirs.landmarks
    if "goal" in (world.State.dtype.names or ()):
        batch.states["goal"] = theirs.goals
    np.testing.assert_allclose(batch.observe(), theirs.observations[0], rtol=ROUNDING, atol=TOLERANCE)
    for t in range(STEPS):
        batch.actions[...] = theirs.actions[t]
        batch.step()
        where = f"step {t}"
        for name, values in ("position", theirs.positions), ("velocity", theirs.velocities):
            np.testing.assert_allclose(batch.states[name], values[t + 1], rtol=0, atol=TOLERANCE, err_msg=where)
        np.testing.assert_allclose(
            batch.observations, theirs.observations[t + 1], rtol=ROUNDING, atol=TOLERANCE, err_msg=where
        )
        np.testing.assert_allclose(batch.rewards, theirs.rewards[t], rtol=ROUNDING, atol=TOLERANCE, err_msg=where)
        assert not batch.terminated.any() and (batch.truncated == (t == STEPS - 1)).all()
    assert batch.done.all()
    if case.episodes >= 500:
        enough(case, theirs)


def enough(case: Case, theirs: Played) -> None:
    """What makes these worlds more than a sum of pushes has been seen often."""
    positions, speeds = theirs.positions, np.linalg.norm(theirs.velocities, axis=-1)
    if case.name == "spread":
        touched = (theirs.rewards != theirs.rewards[:, :, :1]).any(axis=-1)
        assert touched.sum() > ENOUGH
    elif case.name == "tag":
        limits = np.array([1.0, 1.0, 1.0, 1.3])
        assert ((speeds > limits - 1e-9).sum(axis=(0, 1)) > ENOUGH).all()
        gaps = np.linalg.norm(positions[:, :, :, None] - theirs.landmarks[None, :, None], axis=-1)
        assert (gaps < 0.25).sum() > ENOUGH and (theirs.rewards[..., 0] > 0).sum() > ENOUGH
        assert (np.abs(positions[:, :, 3]) > 1.0).sum() > ENOUGH
    else:
        assert np.bincount(theirs.goals).min() > ENOUGH


@pytest.mark.parametrize("name", NAMES)
def test_episodes_begin_as_in_mpe2(name: str) -> None:
    """Kolmogorov-Smirnov: each coordinate is uniform, as mpe2 draws it; one false alarm in 10,000 runs of new seeds."""
    world, n = world_registry.load(f"simple_{name}"), 4000
    batch = Batch(world, n, seed=1, threads=1)
    batch.reset()
    places = "boulder" if name == "tag" else "landmark"
    columns = []
    for points, edge in (("position", 1.0), (places, 0.9 if name == "tag" else 1.0)):
        drawn = batch.states[points].reshape(n, -1) / edge
        assert drawn.min() >= -1 and drawn.max() < 1
        columns += list(drawn.T)
    pvalues = [stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue for column in columns]
    assert min(pvalues) > 1e-4 / (2 * len(columns))
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 6 / np.sqrt(n)
    assert not batch.states["velocity"].any()
    if "goal" in (world.State.dtype.names or ()):
        counts = np.bincount(batch.states["goal"], minlength=len(batch.states[places][0]))
        assert stats.chisquare(counts).pvalue > 1e-4 / 2
