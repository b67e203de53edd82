"""Foreign Gymnasium environments as a batch: what stepping them by hand gives, in the engine's terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from gymnasium.vector import AutoresetMode

from rl_lab import batch, catalogue
from rl_lab.batch import Worlds
from rl_lab.engine import NonFiniteError
from rl_lab.world import Array

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

    def see(self) -> Any:
        space, rng = self.observation_space, self.np_random
        if isinstance(space, Discrete):
            return space.start + rng.integers(space.n)
        if space.dtype == np.uint8:
            return rng.integers(256, size=space.shape, dtype=np.uint8)
        return rng.uniform(-9, 9, space.shape).astype(space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.shade = 0
        return self.see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.shade += 1
        reward = float(np.sum(action)) + self.np_random.normal()
        return self.see(), reward, bool(self.np_random.random() < 0.1), False, {"anything": self.shade}

    def render(self) -> Array:
        return np.full((12, 16, 3), self.shade, np.uint8)


class Identity(gym.Env[Any, Any]):
    """Reward 1 for the action that is the observation; episodes of 8 steps, so the optimum is 8."""

    observation_space, action_space = Discrete(3), Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.wanted = int(self.np_random.integers(3))
        return self.wanted, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.wanted)
        self.wanted = int(self.np_random.integers(3))
        return self.wanted, reward, False, False, {}


class Broken(gym.Env[Any, Any]):
    """NaN in one place, in the environment seeded 1 alone: `field` at the `when`-th step (0: at reset)."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def __init__(self, field: str, when: int, value: float = np.nan, length: int = 10) -> None:
        self.field, self.when, self.value, self.length = field, when, value, length

    def number(self, field: str) -> float:
        return self.value if field == self.field and self.t == self.when and self.faulty else 0.5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.faulty, self.t = self.np_random_seed == 1, 0
        return np.array([0, self.number("observation")], np.float32), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.t += 1
        observation = np.array([0, self.number("observation")], np.float32)
        return observation, self.number("reward"), self.t >= self.length, False, {}


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


class ByHand:
    """One environment stepped with gymnasium.make alone; `step` returns what the batch must show of it."""

    def __init__(self, identity: str, params: dict[str, Any], mode: AutoresetMode) -> None:
        self.env, self.mode = gym.make(identity, **params), mode
        self.ended = False

    def seen(self, observation: Any) -> Array:
        space = self.env.observation_space
        if isinstance(space, Discrete):
            return np.eye(int(space.n), dtype=np.float32)[int(observation) - int(space.start)]
        return np.asarray(observation, np.float32 if space.dtype == np.float64 else space.dtype)

    def reset(self, seed: int | None) -> None:
        self.observation = self.seen(self.env.reset(seed=seed)[0])
        self.reward, self.terminated, self.truncated, self.ended = np.float32(0), False, False, False
        self.total, self.length = 0.0, 0

    def step(self, action: Any) -> bool:
        """Return whether an episode ended; what it came to is then in `finished`."""
        if self.ended and self.mode == AutoresetMode.NEXT_STEP:
            self.reset(None)
            return False
        if self.ended:
            self.reward = np.float32(0)
            return False
        space = self.env.action_space
        given = int(space.start) + int(action) if isinstance(space, Discrete) else action.astype(space.dtype)
        observation, reward, self.terminated, self.truncated, _ = self.env.step(given)
        self.observation, self.reward = self.seen(observation), np.float32(reward)
        self.total, self.length = self.total + float(self.reward), self.length + 1
        self.ended = self.terminated or self.truncated
        if not self.ended:
            return False
        self.finished = self.observation, self.total, self.length
        if self.mode == AutoresetMode.SAME_STEP:
            outcome = self.reward, self.terminated, self.truncated
            self.reset(None)
            self.reward, self.terminated, self.truncated = outcome
        return True


def assert_shows(worlds: Worlds, hands: list[ByHand], ended: list[bool]) -> None:
    for i, hand in enumerate(hands):
        assert worlds.observations[i, 0].dtype == hand.observation.dtype
        assert worlds.observations[i, 0].tobytes() == hand.observation.tobytes()
        assert worlds.rewards[i, 0].tobytes() == hand.reward.tobytes()
        assert (worlds.terminated[i], worlds.truncated[i]) == (hand.terminated, hand.truncated)
        assert worlds.ended[i] == (hand.ended or ended[i])
        if ended[i]:
            final, total, length = hand.finished
            assert worlds.episode_returns[i, 0] == total and worlds.episode_lengths[i] == length
            if hand.mode == AutoresetMode.SAME_STEP:
                assert worlds.final_observations[i, 0].tobytes() == final.tobytes()


def some_actions(worlds: Worlds, rng: np.random.Generator) -> Array:
    space = worlds.world.action
    if isinstance(space, Discrete):
        return rng.integers(space.n, size=worlds.actions.shape)
    return rng.uniform(space.low, space.high, worlds.actions.shape).astype(np.float32)


def compare(name: str, params: dict[str, Any], mode: AutoresetMode, n: int, steps: int, patience: int = 0) -> None:
    """Step a batch and n environments by hand; ended worlds that do not reset wait for `patience` steps first."""
    worlds = batch.make(name, n, params, autoreset=mode)
    hands = [ByHand(name.partition(":")[2], params, mode) for _ in range(n)]
    rng, episodes, waited = np.random.default_rng(0), 0, np.zeros(n, int)
    seeds = np.arange(40, 40 + n)[::-1].copy()
    worlds.seed(seeds)
    worlds.reset()
    for hand, seed in zip(hands, seeds.tolist(), strict=True):
        hand.reset(seed)
    assert_shows(worlds, hands, [False] * n)
    for _ in range(steps):
        worlds.actions[...] = some_actions(worlds, rng)
        actions = worlds.actions[:, 0].copy()
        finished = worlds.step()
        ended = [hand.step(action) for hand, action in zip(hands, actions, strict=True)]
        assert finished == sum(ended)
        episodes += finished
        assert_shows(worlds, hands, ended)
        if mode == AutoresetMode.DISABLED:
            waited = np.where(worlds.ended, waited + 1, 0)
            due = waited > patience
            if due.any():
                worlds.reset(due)
                for hand in (hand for hand, ready in zip(hands, due, strict=True) if ready):
                    hand.reset(None)
                assert_shows(worlds, hands, [False] * n)
    assert episodes >= 2 * n, "too few episodes ended: the comparison has seen too little"
    assert worlds.drain_log() == {"episodes": float(episodes)} != worlds.drain_log()
    worlds.close()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("sees", SPACES)
def test_every_observation_space(sees: str, mode: AutoresetMode) -> None:
    compare("gym:LabWalk-v3", {"sees": sees}, mode, n=3, steps=60)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("takes", ACTIONS)
def test_every_action_space(takes: str, mode: AutoresetMode) -> None:
    compare("gym:LabWalk-v3", {"takes": takes}, mode, n=3, steps=60)


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
    compare(f"gym:{name}", params, mode, n=2, steps=420 if slow else 100)


def test_worlds_that_wait_draw_no_random_numbers() -> None:
    compare("gym:LabWalk-v3", {}, AutoresetMode.DISABLED, n=3, steps=120, patience=4)


def test_worlds_that_wait_are_frozen() -> None:
    worlds = batch.make("gym:LabWalk-v3", 4, autoreset=AutoresetMode.DISABLED, seed=3)
    worlds.reset()
    frozen: dict[int, bytes] = {}
    for _ in range(16):
        waiting = worlds.ended.copy()
        worlds.actions[...] = 1
        worlds.step()
        assert not worlds.rewards[waiting].any() and worlds.ended[waiting].all()
        for i in np.flatnonzero(worlds.ended):
            names = "observations terminated truncated episode_returns episode_lengths".split()
            now = b"".join(getattr(worlds, name)[i].tobytes() for name in names)
            assert frozen.setdefault(int(i), now) == now
    assert len(frozen) == 4 and worlds.step() == 0


def test_what_is_known_of_it() -> None:
    worlds = batch.make("gym:LabIdentity-v3", 2)
    world = worlds.world
    assert (world.name, world.horizon, world.solved) == ("gym:LabIdentity-v3", 8, 7.5)
    assert world.agents == ("agent",) and not worlds.exact
    assert (world.observation, world.action) == (Box(0, 1, (3,), np.float32), Discrete(3))
    world = batch.make("gym:LabWalk-v3", 1, {"sees": "unbounded", "takes": "double"}).world
    assert (world.solved, world.frames_per_second) == (None, 7)
    assert world.observation == Box(-np.inf, np.inf, (3,), np.float32)
    assert world.action == Box(np.float32(-0.1), np.float32(0.1), (2,), np.float32)
    assert batch.make("gym:LabWalk-v3", 1, {"sees": "bytes"}).world.observation == SPACES["bytes"]
    assert batch.make("gym:LabWalk-v3", 1, {"takes": "shifted"}).world.action == Discrete(3)
    assert batch.make("gym:LabBroken-v3", 1, {"field": "", "when": 0}).world.horizon == 0


def test_pictures_are_the_environments_own() -> None:
    worlds: Any = batch.make("gym:LabWalk-v3", 2, autoreset=AutoresetMode.DISABLED, render=True)
    worlds.reset()
    while not worlds.ended[0]:
        worlds.step()
    frame = worlds.picture(0)
    assert frame.dtype == np.uint8 and frame.shape == (12, 16, 3)
    assert (frame == worlds.episode_lengths[0]).all()


def test_arrays_never_move() -> None:
    worlds = batch.make("gym:LabWalk-v3", 2)
    names = "actions observations final_observations rewards terminated truncated ended episode_returns"
    arrays = {name: getattr(worlds, name) for name in f"{names} episode_lengths".split()}
    worlds.reset()
    for _ in range(20):
        worlds.step()
    assert all(getattr(worlds, name) is array for name, array in arrays.items())


# ------------------------------------------------------------------------------------------------- seeds


def openings(worlds: Worlds) -> list[bytes]:
    return [row.tobytes() for row in worlds.reset()]


def test_seeds() -> None:
    worlds, other = batch.make("gym:LabWalk-v3", 4, seed=5), batch.make("gym:LabWalk-v3", 2, seed=5)
    first = openings(worlds)
    assert len(set(first)) == 4
    assert openings(other) == first[:2], "a world depends on how many stand beside it"
    other.seed(5, first=2)
    assert openings(other) == first[2:]
    assert not set(openings(worlds)) & set(first), "a reset without a seed goes on with the generators"
    worlds.seed(6)
    assert not set(openings(worlds)) & set(first)
    worlds.seed(5)
    assert openings(worlds) == first
    worlds.seed(np.array([3, 3, 4, 3]))
    mask = np.array([True, True, False, False])
    rows = [row.tobytes() for row in worlds.reset(mask)]
    assert rows[0] == rows[1] and rows[2:] == first[2:]
    rows = [row.tobytes() for row in worlds.reset(~mask)]  # seeds wait until their worlds are reset
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
        batch.make(name, 1)
    assert hint in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot make world 'gym:LabWalk-v3'.*'seas'") as caught:
        batch.make("gym:LabWalk-v3", 1, {"seas": 1})
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
    with pytest.raises(ValueError, match=f"'gym:LabWalk-v3': observations are {kind}; Box and Discrete are"):
        batch.make("gym:LabWalk-v3", 1, {"sees": space})
    with pytest.raises(ValueError, match=f"'gym:LabWalk-v3': actions are {kind}") as caught:
        batch.make("gym:LabWalk-v3", 1, {"takes": space})
    assert "Discrete and Box of shape" in str(caught.value)


@pytest.mark.parametrize("n", [0, -1])
def test_a_batch_of_none_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=str(n)):
        batch.make("gym:LabWalk-v3", n)


@pytest.mark.parametrize("takes, wrong", [("discrete", 3), ("shifted", -1), ("box", 1.01), ("box", np.nan)])
def test_a_wrong_action_moves_nothing(takes: str, wrong: float) -> None:
    worlds, other = (batch.make("gym:LabWalk-v3", 3, {"takes": takes}) for _ in range(2))
    before = worlds.reset().copy()
    other.reset()
    worlds.actions[2] = wrong
    with pytest.raises(ValueError, match=r"gym:LabWalk-v3: action .* of world 2 at step 0 is outside"):
        worlds.step()
    assert worlds.observations.tobytes() == before.tobytes()
    worlds.actions[2] = 0
    worlds.step()
    other.step()
    assert worlds.observations.tobytes() == other.observations.tobytes()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("field", ["reward", "observation"])
@pytest.mark.parametrize("when", [1, 3, 10])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(field: str, when: int, value: float, mode: AutoresetMode) -> None:
    params = {"field": field, "when": when, "value": value}
    worlds = batch.make("gym:LabBroken-v3", 3, params, autoreset=mode)
    worlds.seed(np.array([0, 2, 1]))
    worlds.reset()
    for _ in range(when - 1):
        worlds.step()
    with pytest.raises(NonFiniteError, match=f"LabBroken-v3: non-finite {field} in world 2 at step {when}"):
        worlds.step()


def test_what_is_not_finite_at_reset_is_named() -> None:
    worlds = batch.make("gym:LabBroken-v3", 3, {"field": "observation", "when": 0})
    worlds.seed(np.array([0, 2, 1]))
    with pytest.raises(NonFiniteError, match="non-finite observation in world 2 at step 0"):
        worlds.reset()


# ------------------------------------------------------------------------------------------------- snapshots


def test_a_restored_batch_begins_new_episodes_from_the_seeds_kept() -> None:
    worlds, other = (batch.make("gym:LabWalk-v3", 3, seed=s) for s in (1, 2))
    first = openings(worlds)
    for _ in range(30):
        worlds.step()
    snapshot = worlds.snapshot()
    assert all(isinstance(array, np.ndarray) for array in snapshot.values())
    begun = []
    for each in (other, worlds, other):
        each.reset()
        each.step()
        each.restore(snapshot)
        begun.append(each.observations.tobytes())
        assert not each.ended.any()
    assert len(set(begun)) == 1
    assert not {row.tobytes() for row in worlds.observations} & set(first)
    for actions in (0, 1, 2) * 8:
        worlds.actions[...] = other.actions[...] = actions
        worlds.step()
        other.step()
        assert worlds.observations.tobytes() == other.observations.tobytes()
        assert np.array_equal(worlds.ended, other.ended)
        for name in ("episode_returns", "episode_lengths"):  # of the episodes begun since
            assert np.array_equal(getattr(worlds, name)[worlds.ended], getattr(other, name)[worlds.ended])


def test_no_two_snapshots_begin_the_same_episodes() -> None:
    worlds = batch.make("gym:LabWalk-v3", 3, seed=1)
    used = set(openings(worlds))
    for _ in range(4):
        for _ in range(20):
            worlds.step()
        worlds.drain_log()  # training does after every iteration
        other = batch.make("gym:LabWalk-v3", 3)
        other.restore(worlds.snapshot())
        begun = {row.tobytes() for row in other.observations}
        assert len(begun) == 3 and not begun & used
        used |= begun


def test_snapshots_of_others_are_refused() -> None:
    worlds, lab = batch.make("gym:LabWalk-v3", 3), batch.make("cartpole", 3, threads=1)
    lab.reset()
    for wrong in (batch.make("gym:LabWalk-v3", 2).snapshot(), lab.snapshot(), {}):
        with pytest.raises(ValueError, match="snapshot of another batch.*gym:LabWalk-v3 x 3"):
            worlds.restore(wrong)


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
    factory = catalogue.load(agent)
    worlds = batch.make(world, 2, params, seed=1)
    learner = factory.learner(factory.Config(**settings), worlds, budget=300, seed=0, device="cpu")
    while learner.steps < 300:
        metrics = learner.advance()
    assert metrics["train/n_updates"] > 0 and np.isfinite(list(metrics.values())).all()
    actions, _ = learner.agent().act(worlds.observations[:, 0])
    assert actions.shape == worlds.actions[:, 0].shape
    worlds.close()


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
    factory, budget = catalogue.load(agent), 3000
    worlds = batch.make("gym:LabIdentity-v3", 4, seed=1)
    config = factory.Config(**SETTINGS[agent], net_arch=[32])
    learner = factory.learner(config, worlds, budget=budget, seed=0, device="cpu")
    while learner.steps < budget:
        learner.advance()
    measured = batch.make("gym:LabIdentity-v3", 16, seed=9)
    measured.reset()
    player = learner.agent()
    for _ in range(8):
        measured.actions[:, 0], _ = player.act(measured.observations[:, 0])
        measured.step()
    assert measured.ended.all() and measured.episode_returns.mean() > 7.9
