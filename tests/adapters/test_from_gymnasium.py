"""These tests compare a batch of Gymnasium environments with the same environments stepped one by one.

`ReferenceEnv` steps one environment with gymnasium.make alone and converts what it returns as the batch must.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError

MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]
SPACES: dict[str, Space[Any]] = {
    "single": Box(-9, 9, (2,), np.float32),
    "double": Box(-9.9, 9.9, (2, 3), np.float64),
    "unbounded": Box(-np.inf, np.inf, (3,), np.float64),
    "bytes": Box(0, 255, (4, 4), np.uint8),
    "discrete": Discrete(5),
    "shifted": Discrete(5, start=3),
}
ACTIONS: dict[str, Space[Any]] = {
    "discrete": Discrete(3),
    "shifted": Discrete(3, start=-1),
    "box": Box(-2, 1, (2,), np.float32),
    "double": Box(-0.1, 0.1, (2,), np.float64),
}


class Walk(gym.Env[Any, Any]):
    """Random observations and rewards that depend on action, step and generator; ends at random."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, sees: Any = "single", takes: Any = "discrete", render_mode: str | None = None) -> None:
        self.observation_space = SPACES.get(sees, sees) if isinstance(sees, str) else sees
        self.action_space = ACTIONS.get(takes, takes) if isinstance(takes, str) else takes
        self.render_mode = render_mode

    def sample_observation(self) -> Any:
        space, rng = self.observation_space, self.np_random
        if isinstance(space, Discrete):
            return space.start + rng.integers(space.n)
        if space.dtype == np.uint8:
            return rng.integers(256, size=space.shape, dtype=np.uint8)
        return rng.uniform(-9, 9, space.shape).astype(space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.shade = 0
        return self.sample_observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.shade += 1
        reward = float(np.sum(action)) + self.np_random.normal()
        return self.sample_observation(), reward, bool(self.np_random.random() < 0.1), False, {"anything": self.shade}

    def render(self) -> Array:
        return np.full((12, 16, 3), self.shade, np.uint8)


class Identity(gym.Env[Any, Any]):
    """Reward 1 for the action that is the observation; episodes of 8 steps, so the optimum is 8."""

    observation_space, action_space = Discrete(3), Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.target = int(self.np_random.integers(3))
        return self.target, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.target)
        self.target = int(self.np_random.integers(3))
        return self.target, reward, False, False, {}


class Broken(gym.Env[Any, Any]):
    """NaN in one place, in the environment seeded 1 alone: `field` at the `when`-th step (0: at reset)."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def __init__(self, field: str, when: int, value: float = np.nan, length: int = 10) -> None:
        self.field, self.when, self.value, self.length = field, when, value, length

    def value_of(self, field: str) -> float:
        return self.value if field == self.field and self.t == self.when and self.faulty else 0.5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.faulty, self.t = self.np_random_seed == 1, 0
        return np.array([0, self.value_of("observation")], np.float32), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.t += 1
        observation = np.array([0, self.value_of("observation")], np.float32)
        return observation, self.value_of("reward"), self.t >= self.length, False, {}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    limits: dict[type, int | None] = {Walk: 12, Identity: 8, Broken: None}
    for kind, limit in limits.items():
        # The passive checker warns of what these environments do on purpose.
        name, threshold = f"Lab{kind.__name__}-v3", 7.5 if kind is Identity else None
        gym.register(name, kind, max_episode_steps=limit, disable_env_checker=True, reward_threshold=threshold)
    yield
    for kind in limits:
        del gym.registry[f"Lab{kind.__name__}-v3"]
    torch.set_num_threads(threads)


class ReferenceEnv:
    """One environment stepped with gymnasium.make alone; `step` returns what the batch must show of it."""

    def __init__(self, identity: str, params: dict[str, Any], mode: AutoresetMode) -> None:
        self.env, self.mode = gym.make(identity, **params), mode
        self.done = False

    def converted(self, observation: Any) -> Array:
        space = self.env.observation_space
        if isinstance(space, Discrete):
            return np.eye(int(space.n), dtype=np.float32)[int(observation) - int(space.start)]
        return np.asarray(observation, np.float32 if space.dtype == np.float64 else space.dtype)

    def reset(self, seed: int | None) -> None:
        self.observation = self.converted(self.env.reset(seed=seed)[0])
        self.reward, self.terminated, self.truncated, self.done = np.float32(0), False, False, False
        self.total, self.length = 0.0, 0

    def step(self, action: Any) -> bool:
        """Return whether an episode ended; what it came to is then in `finished`."""
        if self.done and self.mode == AutoresetMode.NEXT_STEP:
            self.reset(None)
            return False
        if self.done:
            self.reward = np.float32(0)
            return False
        space = self.env.action_space
        env_action = int(space.start) + int(action) if isinstance(space, Discrete) else action.astype(space.dtype)
        observation, reward, self.terminated, self.truncated, _ = self.env.step(env_action)
        self.observation, self.reward = self.converted(observation), np.float32(reward)
        self.total, self.length = self.total + float(reward), self.length + 1
        self.done = self.terminated or self.truncated
        if not self.done:
            return False
        self.last_episode = self.observation, self.total, self.length
        if self.mode == AutoresetMode.SAME_STEP:
            outcome = self.reward, self.terminated, self.truncated
            self.reset(None)
            self.reward, self.terminated, self.truncated = outcome
        return True


def assert_equal_outputs(envs: BatchedEnv, references: list[ReferenceEnv], ended: list[bool]) -> None:
    for i, reference in enumerate(references):
        assert envs.observations[i, 0].dtype == reference.observation.dtype
        assert envs.observations[i, 0].tobytes() == reference.observation.tobytes()
        assert envs.rewards[i, 0].tobytes() == reference.reward.tobytes()
        assert (envs.terminated[i], envs.truncated[i]) == (reference.terminated, reference.truncated)
        assert envs.done[i] == (reference.done or ended[i])
        if ended[i]:
            final, total, length = reference.last_episode
            assert envs.episode_returns[i, 0] == total and envs.episode_lengths[i] == length
            if reference.mode == AutoresetMode.SAME_STEP:
                assert envs.final_observations[i, 0].tobytes() == final.tobytes()


def sample_actions(envs: BatchedEnv, rng: np.random.Generator) -> Array:
    space = envs.world.action
    if isinstance(space, Discrete):
        return rng.integers(space.n, size=envs.actions.shape)
    return rng.uniform(space.low, space.high, envs.actions.shape).astype(np.float32)


def check_against_references(
    name: str, params: dict[str, Any], mode: AutoresetMode, n: int, steps: int, wait_steps: int = 0
) -> None:
    """Step a batch and n environments by hand; ended worlds that do not reset wait for `wait_steps` steps first."""
    envs = make.make(name, n, params, autoreset=mode)
    references = [ReferenceEnv(name.partition(":")[2], params, mode) for _ in range(n)]
    rng, episodes, waited = np.random.default_rng(0), 0, np.zeros(n, int)
    seeds = np.arange(40, 40 + n)[::-1].copy()
    envs.seed(seeds)
    envs.reset()
    for reference, seed in zip(references, seeds.tolist(), strict=True):
        reference.reset(seed)
    assert_equal_outputs(envs, references, [False] * n)
    for _ in range(steps):
        envs.actions[...] = sample_actions(envs, rng)
        actions = envs.actions[:, 0].copy()
        finished = envs.step()
        ended = [reference.step(action) for reference, action in zip(references, actions, strict=True)]
        assert finished == sum(ended)
        episodes += finished
        assert_equal_outputs(envs, references, ended)
        if mode == AutoresetMode.DISABLED:
            waited = np.where(envs.done, waited + 1, 0)
            due = waited > wait_steps
            if due.any():
                envs.reset(due)
                for reference in (reference for reference, ready in zip(references, due, strict=True) if ready):
                    reference.reset(None)
                assert_equal_outputs(envs, references, [False] * n)
    assert episodes >= 2 * n, "too few episodes ended: the comparison has seen too little"
    assert envs.drain_log() == {"episodes": float(episodes)} != envs.drain_log()
    envs.close()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("sees", SPACES)
def test_every_observation_space(sees: str, mode: AutoresetMode) -> None:
    check_against_references("gym:LabWalk-v3", {"sees": sees}, mode, n=3, steps=60)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("takes", ACTIONS)
def test_every_action_space(takes: str, mode: AutoresetMode) -> None:
    check_against_references("gym:LabWalk-v3", {"takes": takes}, mode, n=3, steps=60)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize(
    "name, params",
    [
        ("CartPole-v1", {}),
        ("FrozenLake-v1", {"is_slippery": True}),
        ("CliffWalking-v1", {}),
        ("Pendulum-v1", {"g": 9.0}),
    ],
)
def test_gymnasiums_own(name: str, params: dict[str, Any], mode: AutoresetMode) -> None:
    slow = name in ("Pendulum-v1", "CliffWalking-v1")
    if name == "CliffWalking-v1":
        params = {"max_episode_steps": 30}
    check_against_references(f"gym:{name}", params, mode, n=2, steps=420 if slow else 100)


def test_worlds_that_wait_draw_no_random_numbers() -> None:
    check_against_references("gym:LabWalk-v3", {}, AutoresetMode.DISABLED, n=3, steps=120, wait_steps=4)


def test_worlds_that_wait_are_frozen() -> None:
    envs = make.make("gym:LabWalk-v3", 4, autoreset=AutoresetMode.DISABLED, seed=3)
    envs.reset()
    frozen: dict[int, bytes] = {}
    for _ in range(16):
        waiting = envs.done.copy()
        envs.actions[...] = 1
        envs.step()
        assert not envs.rewards[waiting].any() and envs.done[waiting].all()
        for i in np.flatnonzero(envs.done):
            names = "observations terminated truncated episode_returns episode_lengths".split()
            now = b"".join(getattr(envs, name)[i].tobytes() for name in names)
            assert frozen.setdefault(int(i), now) == now
    assert len(frozen) == 4 and envs.step() == 0


def test_what_is_known_of_it() -> None:
    envs = make.make("gym:LabIdentity-v3", 2)
    world = envs.world
    assert (world.name, world.horizon, world.reward_threshold) == ("gym:LabIdentity-v3", 8, 7.5)
    assert world.agents == ("agent",) and not envs.restores_exactly
    assert (world.observation, world.action) == (Box(0, 1, (3,), np.float32), Discrete(3))
    world = make.make("gym:LabWalk-v3", 1, {"sees": "unbounded", "takes": "double"}).world
    assert (world.reward_threshold, world.frames_per_second) == (None, 7)
    assert world.observation == Box(-np.inf, np.inf, (3,), np.float32)
    assert world.action == Box(np.float32(-0.1), np.float32(0.1), (2,), np.float32)
    assert make.make("gym:LabWalk-v3", 1, {"sees": "bytes"}).world.observation == SPACES["bytes"]
    assert make.make("gym:LabWalk-v3", 1, {"takes": "shifted"}).world.action == Discrete(3)
    assert make.make("gym:LabBroken-v3", 1, {"field": "", "when": 0}).world.horizon == 0


def test_pictures_are_the_environments_own() -> None:
    envs: Any = make.make("gym:LabWalk-v3", 2, autoreset=AutoresetMode.DISABLED, render=True)
    envs.reset()
    while not envs.done[0]:
        envs.step()
    frame = envs.picture(0)
    assert frame.dtype == np.uint8 and frame.shape == (12, 16, 3)
    assert (frame == envs.episode_lengths[0]).all()


def test_arrays_never_move() -> None:
    envs = make.make("gym:LabWalk-v3", 2)
    names = "actions observations final_observations rewards terminated truncated done episode_returns"
    arrays = {name: getattr(envs, name) for name in f"{names} episode_lengths".split()}
    envs.reset()
    for _ in range(20):
        envs.step()
    assert all(getattr(envs, name) is array for name, array in arrays.items())


# ------------------------------------------------------------------------------------------------- seeds


def first_observations(envs: BatchedEnv) -> list[bytes]:
    return [row.tobytes() for row in envs.reset()]


def test_seeds() -> None:
    envs, other = make.make("gym:LabWalk-v3", 4, seed=5), make.make("gym:LabWalk-v3", 2, seed=5)
    first = first_observations(envs)
    assert len(set(first)) == 4
    assert first_observations(other) == first[:2], "a world depends on how many stand beside it"
    other.seed(5, first=2)
    assert first_observations(other) == first[2:]
    assert not set(first_observations(envs)) & set(first), "a reset without a seed goes on with the generators"
    envs.seed(6)
    assert not set(first_observations(envs)) & set(first)
    envs.seed(5)
    assert first_observations(envs) == first
    envs.seed(np.array([3, 3, 4, 3]))
    mask = np.array([True, True, False, False])
    rows = [row.tobytes() for row in envs.reset(mask)]
    assert rows[0] == rows[1] and rows[2:] == first[2:]
    rows = [row.tobytes() for row in envs.reset(~mask)]  # seeds wait until their worlds are reset
    assert rows[3] == rows[0] != rows[2]


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name, hint",
    [
        ("gym:FrozenLak-v1", "did you mean 'gym:FrozenLake-v1'?"),
        ("gym:LabWalk-v4", "did you mean 'gym:LabWalk-v3'?"),
        ("gym:CartPole", "CartPole-v1"),
        ("gym:", "'gym:'"),
        ("gym:no such thing at all", "no such thing at all"),
        ("gym:nowhere/Nothing-v0", "nowhere"),
    ],
)
def test_unknown_ids_name_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        make.make(name, 1)
    assert hint in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot make world 'gym:LabWalk-v3'.*'seas'") as caught:
        make.make("gym:LabWalk-v3", 1, {"seas": 1})
    assert "\n" not in str(caught.value) and "did you mean" not in str(caught.value)


UNSUPPORTED: list[Space[Any]] = [
    Tuple((Discrete(2), Discrete(3))),
    Dict({"a": Discrete(2)}),
    MultiDiscrete([2, 3]),
    MultiBinary(3),
    Text(5),
]


@pytest.mark.parametrize("space", UNSUPPORTED, ids=lambda space: type(space).__name__)
def test_unsupported_spaces_are_refused_by_name(space: Space[Any]) -> None:
    kind = type(space).__name__
    if kind == "Text":  # the others are supported: see test_structured_spaces.py
        with pytest.raises(ValueError, match=f"'gym:LabWalk-v3': observations are {kind}; Box and Discrete are"):
            make.make("gym:LabWalk-v3", 1, {"sees": space})
    with pytest.raises(ValueError, match=f"'gym:LabWalk-v3': actions are {kind}") as caught:
        make.make("gym:LabWalk-v3", 1, {"takes": space})
    assert "Discrete and Box of shape" in str(caught.value)


@pytest.mark.parametrize("n", [0, -1])
def test_a_batch_of_none_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=str(n)):
        make.make("gym:LabWalk-v3", n)


@pytest.mark.parametrize("takes, wrong", [("discrete", 3), ("shifted", -1), ("box", 1.01), ("box", np.nan)])
def test_a_wrong_action_moves_nothing(takes: str, wrong: float) -> None:
    envs, other = (make.make("gym:LabWalk-v3", 3, {"takes": takes}) for _ in range(2))
    before = envs.reset().copy()
    other.reset()
    envs.actions[2] = wrong
    with pytest.raises(ValueError, match=r"gym:LabWalk-v3: action .* of world 2 at step 0 is outside"):
        envs.step()
    assert envs.observations.tobytes() == before.tobytes()
    envs.actions[2] = 0
    envs.step()
    other.step()
    assert envs.observations.tobytes() == other.observations.tobytes()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("field", ["reward", "observation"])
@pytest.mark.parametrize("when", [1, 3, 10])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(field: str, when: int, value: float, mode: AutoresetMode) -> None:
    params = {"field": field, "when": when, "value": value}
    envs = make.make("gym:LabBroken-v3", 3, params, autoreset=mode)
    envs.seed(np.array([0, 2, 1]))
    envs.reset()
    for _ in range(when - 1):
        envs.step()
    with pytest.raises(NonFiniteError, match=f"LabBroken-v3: non-finite {field} in world 2 at step {when}"):
        envs.step()


def test_what_is_not_finite_at_reset_is_named() -> None:
    envs = make.make("gym:LabBroken-v3", 3, {"field": "observation", "when": 0})
    envs.seed(np.array([0, 2, 1]))
    with pytest.raises(NonFiniteError, match="non-finite observation in world 2 at step 0"):
        envs.reset()


# ------------------------------------------------------------------------------------------------- snapshots


def test_a_restored_batch_begins_new_episodes_from_the_seeds_kept() -> None:
    envs, other = (make.make("gym:LabWalk-v3", 3, seed=s) for s in (1, 2))
    first = first_observations(envs)
    for _ in range(30):
        envs.step()
    snapshot = envs.snapshot()
    assert all(isinstance(array, np.ndarray) for array in snapshot.values())
    begun = []
    for each in (other, envs, other):
        each.reset()
        each.step()
        each.restore(snapshot)
        begun.append(each.observations.tobytes())
        assert not each.done.any()
    assert len(set(begun)) == 1
    assert not {row.tobytes() for row in envs.observations} & set(first)
    for actions in (0, 1, 2) * 8:
        envs.actions[...] = other.actions[...] = actions
        envs.step()
        other.step()
        assert envs.observations.tobytes() == other.observations.tobytes()
        assert np.array_equal(envs.done, other.done)
        for name in ("episode_returns", "episode_lengths"):  # of the episodes begun since
            assert np.array_equal(getattr(envs, name)[envs.done], getattr(other, name)[envs.done])


def test_no_two_snapshots_begin_the_same_episodes() -> None:
    envs = make.make("gym:LabWalk-v3", 3, seed=1)
    used = set(first_observations(envs))
    for _ in range(4):
        for _ in range(20):
            envs.step()
        envs.drain_log()  # training does after every iteration
        other = make.make("gym:LabWalk-v3", 3)
        other.restore(envs.snapshot())
        begun = {row.tobytes() for row in other.observations}
        assert len(begun) == 3 and not begun & used
        used |= begun


def test_snapshots_of_others_are_refused() -> None:
    envs, lab = make.make("gym:LabWalk-v3", 3), make.make("cartpole", 3, threads=1)
    lab.reset()
    for wrong in (make.make("gym:LabWalk-v3", 2).snapshot(), lab.snapshot(), {}):
        with pytest.raises(ValueError, match="snapshot of another batch.*gym:LabWalk-v3 x 3"):
            envs.restore(wrong)


# ------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(
    "agent, world, params, settings",
    [
        ("ppo", "gym:LabWalk-v3", {"sees": "double", "takes": "double"}, {"n_steps": 64, "batch_size": 64}),
        ("ppo", "gym:LabWalk-v3", {"sees": "shifted"}, {"n_steps": 64, "normalize_observations": True}),
        ("ppo", "gym:LabWalk-v3", {"sees": "bytes", "takes": "shifted"}, {"n_steps": 64, "policy": "cnn"}),
        ("dqn", "gym:LabWalk-v3", {"takes": "shifted"}, {"learning_starts": 50, "buffer_size": 500}),
        ("dqn", "gym:FrozenLake-v1", {}, {"learning_starts": 50, "buffer_size": 500}),
    ],
)
def test_learners_take_it(agent: str, world: str, params: dict[str, Any], settings: dict[str, Any]) -> None:
    factory = agent_registry.load(agent)
    envs = make.make(world, 2, params, seed=1)
    learner = factory.learner(factory.Config(**settings), envs, budget=300, seed=0, device="cpu")
    while learner.steps < 300:
        metrics = learner.train_iteration()
    assert metrics["train/n_updates"] > 0 and np.isfinite(list(metrics.values())).all()
    actions, _ = learner.agent().act(envs.observations[:, 0])
    assert actions.shape == envs.actions[:, 0].shape
    envs.close()


SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 32, "batch_size": 64, "n_epochs": 6, "learning_rate": 5e-3, "gamma": 0.5},
    "dqn": {
        "learning_rate": 5e-3,
        "buffer_size": 2000,
        "gradient_steps": 4,
        "gamma": 0.5,
        "target_update_interval": 100,
        "exploration_fraction": 0.3,
    },
}


@pytest.mark.parametrize("agent", SETTINGS)
def test_learners_find_the_identity(agent: str) -> None:
    # Seeds are fixed: on one machine it fails always or never. Random play gets 8/3, this asks for 7.9 of 8.
    factory, budget = agent_registry.load(agent), 3000
    envs = make.make("gym:LabIdentity-v3", 4, seed=1)
    config = factory.Config(**SETTINGS[agent], net_arch=[32])
    learner = factory.learner(config, envs, budget=budget, seed=0, device="cpu")
    while learner.steps < budget:
        learner.train_iteration()
    measured = make.make("gym:LabIdentity-v3", 16, seed=9)
    measured.reset()
    player = learner.agent()
    for _ in range(8):
        measured.actions[:, 0], _ = player.act(measured.observations[:, 0])
        measured.step()
    assert measured.done.all() and measured.episode_returns.mean() > 7.9
