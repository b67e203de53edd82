"""An exported agent gets the same returns in a third-party environment with SB3 as in the lab, or is not exported.

`Walk`, registered as test/Walk-v0, has the kinds of observations that the lab converts. Runs are trained in temporary
folders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rl_lab.adapters.raw_spaces import spaces_outside
from rl_lab.cli import main
from rl_lab.evaluation.evaluate import EVALUATION_SEED, evaluate
from rl_lab.experiments.agent_targets import find_agent

EPISODES = 6


class Walk(gymnasium.Env[Any, Any]):
    """A corridor of five positions: the right end has reward 1, a step -0.1. `kind` selects the observation space."""

    def __init__(self, kind: str, first_action: int = 0, first_place: int = 0) -> None:
        spaces = {
            "place": Discrete(5, start=first_place),
            "numbers": Box(-1.0, 1.0, (2,), np.float64),
            "board": Box(0, 1, (3, 5), np.float32),
            "picture": Box(0, 255, (12, 12, 3), np.uint8),
            "dict": Dict({"place": Discrete(5), "bits": MultiBinary(2), "x": Box(-1, 1, (2,), np.float64)}),
            "camera": Dict({"image": Box(0, 255, (36, 40, 3), np.uint8), "x": Box(-1, 1, (1,), np.float32)}),
            "choices": MultiDiscrete([5, 2]),
            "bits": MultiBinary(5),
        }
        self.kind, self.first_action, self.first_place = kind, first_action, first_place
        self.observation_space = spaces[kind]
        self.action_space = Discrete(2, start=first_action)
        if kind == "numbers":
            self.action_space = Box(-1.0, 1.0, (1,), np.float64)

    def _observation(self) -> Any:
        if self.kind == "place":
            return np.int64(self.position + self.first_place)
        if self.kind == "numbers":
            return np.array([self.position / 4, self.shift])
        if self.kind in ("dict", "camera"):
            image = np.zeros((36, 40, 3), np.uint8)
            image[:, 8 * self.position] = 255
            parts = {
                "place": np.int64(self.position),
                "bits": np.int8([self.position & 1, self.position > 1]),
                "image": image,
            }
            parts["x"] = np.full(2 if self.kind == "dict" else 1, self.shift, self.observation_space["x"].dtype)
            return {key: parts[key] for key in self.observation_space}
        if self.kind == "choices":
            return np.array([self.position, self.position > 1], np.int64)
        if self.kind == "bits":
            return np.eye(5, dtype=np.int8)[self.position]
        board = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)
        board[0, self.position * (2 if self.kind == "picture" else 1)] = 255 if self.kind == "picture" else 1
        return board

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.shift = int(self.np_random.integers(4)), float(self.np_random.uniform(-0.3, 0.3))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        moves_right = action[0] > self.shift if self.kind == "numbers" else action == self.first_action + 1
        self.position = min(max(self.position + (1 if moves_right else -1), 0), 4)
        return self._observation(), 1.0 if self.position == 4 else -0.1, self.position == 4, False, {}


@pytest.fixture(autouse=True)
def register_walk() -> Any:
    gymnasium.register("test/Walk-v0", Walk, max_episode_steps=12)
    yield
    del gymnasium.registry["test/Walk-v0"]


def train_run(folder: Path, overrides: list[str]) -> Path:
    """Train a small run; return its folder."""
    quick_run = ["video=false", "evaluation.episodes=2", "evaluation.selections=1", "worlds=4", "budget=512"]
    short = [] if "agent=dqn" in overrides else ["agent.n_steps=32", "agent.batch_size=32"]
    assert main(["train", *overrides, *quick_run, *short, f"run_dir={folder / 'run'}"]) == 0
    return folder / "run"


RUNS: dict[str, tuple[Any, list[str]]] = {
    "one-hot": (PPO, ["gym:FrozenLake-v1", "+world.params.is_slippery=false"]),
    "one-hot of a dqn": (DQN, ["gym:test/Walk-v0", "+world.params.kind=place", "agent=dqn"]),
    "double precision": (PPO, ["gym:test/Walk-v0", "+world.params.kind=numbers"]),
    "boards": (PPO, ["gym:test/Walk-v0", "+world.params.kind=board", "agent.policy=cnn"]),
    **{kind: (PPO, ["gym:test/Walk-v0", f"+world.params.kind={kind}"]) for kind in ("choices", "bits", "picture")},
    "dict": (PPO, ["gym:test/Walk-v0", "+world.params.kind=dict"]),
    "dict of a dqn": (DQN, ["gym:test/Walk-v0", "+world.params.kind=dict", "agent=dqn"]),
    "camera": (PPO, ["gym:test/Walk-v0", "+world.params.kind=camera"]),
    "normalised picture": (
        PPO,
        ["gym:test/Walk-v0", "+world.params.kind=picture", "agent.normalize_observations=true"],
    ),
    "normalised picture of a dqn": (
        DQN,
        ["gym:test/Walk-v0", "+world.params.kind=picture", "agent.normalize_observations=true", "agent=dqn"],
    ),
    "normalised": (PPO, ["gym:CartPole-v1", "agent.normalize_observations=true"]),
    "normalised doubles": (
        PPO,
        ["gym:test/Walk-v0", "+world.params.kind=numbers", "agent.normalize_observations=true"],
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_sb3_loads_the_export_and_gets_the_labs_returns(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    algorithm, overrides = RUNS[case]
    run = train_run(tmp_path, overrides)
    assert main(["export", str(run), str(tmp_path / "agent.zip"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out.splitlines()[-1])
    agent, scenario, *_ = find_agent(str(run), [])
    lab_result = evaluate(agent, scenario.world, scenario.params, episodes=EPISODES)

    def make() -> Any:
        return gymnasium.make(scenario.world.partition(":")[2], **scenario.params)

    venv: Any = DummyVecEnv([make])
    if "normalizer" in files:
        venv = VecNormalize.load(files["normalizer"], venv)
        venv.training = venv.norm_reward = False
        assert any("VecNormalize.load" in note for note in files["notes"])
    model = algorithm.load(files["agent"], venv, device="cpu")
    returns = []
    for episode in range(EPISODES):
        env, total, done = make(), 0.0, False
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        while not done:
            policy_obs = venv.normalize_obs(observation) if "normalizer" in files else observation
            action, _ = model.predict(policy_obs, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(int(action) if np.ndim(action) == 0 else action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    assert returns == pytest.approx([each.return_ for each in lab_result.episodes], abs=1e-5)
    if "normalizer" in files:
        venv.training = venv.norm_reward = True
    model.learn(128)  # raises unless the spaces are the environment's


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["+world.params.kind=place", "+world.params.first_action=5"], "numbered from 5"),
        (["+world.params.kind=place", "+world.params.first_place=3"], "numbered from 3"),
        (["+world.params.kind=place", "agent.normalize_observations=true"], "VecNormalize does not support"),
        (["+world.params.kind=board", "+world.params.first_action=-1", "agent=dqn"], "numbered from -1"),
    ],
)
def test_agents_that_depend_on_the_labs_conversions_are_refused_in_one_line(
    overrides: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(tmp_path, ["gym:test/Walk-v0", *overrides])
    capsys.readouterr()
    assert main(["export", str(run), str(tmp_path / "agent.zip")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert reason in line
    assert not list(tmp_path.glob("agent*")), "no file is left"


def test_a_dqn_that_needs_masks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run(tmp_path, ["tic_tac_toe", "agent=dqn"])
    assert main(["export", str(run), str(tmp_path / "agent.zip")]) == 2
    assert "illegal actions" in capsys.readouterr().err.strip().splitlines()[-1]


class _AgentsWithSpaces:
    """Stands for environments of several agents with these raw spaces."""

    def __init__(self, *raw: tuple[Any, Any]) -> None:
        self.raw_spaces = list(raw)

        class world:  # noqa: N801
            name = "games"

        self.world = world


def test_agents_of_different_spaces_share_no_exported_policy() -> None:
    four, six, two = Box(0.0, 1.0, (4,)), Box(0.0, 1.0, (6,)), Discrete(2)
    envs: Any = _AgentsWithSpaces((four, two), (six, two))
    with pytest.raises(ValueError, match="shape"):
        spaces_outside(envs, six, two)
    assert spaces_outside(envs, six, two, seats=(1,)) == (six, two)
    other_bounds: Any = _AgentsWithSpaces((four, two), (Box(0.0, 2.0, (4,)), two))
    with pytest.raises(ValueError, match="pads"):
        spaces_outside(other_bounds, four, two)
    with pytest.raises(ValueError, match="actions are"):
        spaces_outside(envs, six, Discrete(3), seats=(1,))
