"""An agent that is exported as a file of Stable-Baselines3 acts there as it does in the lab.

Each test trains a small run in a temporary folder with `rl-lab train`; `rl-lab export` writes the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import VecNormalize

from rl_lab.adapters import make
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.cli import main
from rl_lab.experiments.agent_targets import find_agent
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose

RUNS: dict[str, tuple[Any, list[str]]] = {
    "ppo": (PPO, ["catch", "budget=2000", "agent.policy=cnn"]),
    "numbers": (PPO, ["pendulum", "budget=2000", "agent.use_sde=false", "agent.normalize_observations=true"]),
    "masked": (MaskablePPO, ["tic_tac_toe", "budget=2000"]),
    "dqn": (DQN, ["cartpole", "agent=dqn", "budget=2000"]),
}


@pytest.mark.parametrize("case", RUNS)
def test_an_exported_agent_acts_the_same(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    algorithm, overrides = RUNS[case]
    quick_run = ["video=false", "evaluation.episodes=2", "evaluation.selections=1", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *overrides, *quick_run]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "agent.zip"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out.splitlines()[-1])
    agent, scenario, *_ = find_agent(str(tmp_path / "run"), [])
    envs = make.make(scenario.world, 32, seed=5)
    envs.reset()
    sb3_model = algorithm.load(files["agent"])
    assert type(sb3_model) is algorithm
    for _ in range(20):
        obs = envs.observations[:, 0]
        action_mask = envs.action_mask[:, 0] if envs.world.has_action_mask else None
        actions, _ = agent.act(obs, action_mask=action_mask)
        sb3_obs = (
            VecNormalize.load(files["normalizer"], LabVecEnv(envs)).normalize_obs(obs) if case == "numbers" else obs
        )
        masks = {"action_masks": action_mask} if action_mask is not None else {}
        assert np.allclose(actions, sb3_model.predict(sb3_obs, deterministic=True, **masks)[0], atol=1e-6)
        envs.random_actions()  # type: ignore[attr-defined]
        envs.step()


def test_the_file_is_loaded_without_the_lab(tmp_path: Path) -> None:
    quick_run = ["video=false", "evaluation.episodes=2", "evaluation.selections=1", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", "cartpole", "budget=1000", *quick_run]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "agent.zip")]) == 0
    lines = "import sys\nfrom stable_baselines3 import PPO\n"
    lines += f"PPO.load({str(tmp_path / 'agent.zip')!r})\nassert not any(m.startswith('rl_lab') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", lines], check=True, cwd=tmp_path)


def test_a_wrong_path_is_one_line_of_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for overrides in (["nowhere", "a.zip"], ["nowhere", "a.bin"], ["nowhere", str(tmp_path / "no" / "a.zip")]):
        assert main(["export", *overrides]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("case", RUNS)
def test_compiled_actions_are_those_of_the_torch_policy(case: str) -> None:
    """The weights are random, the observations those of random play; a row's action is the same in every batch."""
    algorithm, (world, *overrides) = RUNS[case]
    scenario = compose(world, overrides)
    learner, _ = make_learner(scenario)
    agent: Any = learner.agent()
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    envs = make.make(world, 64, seed=1)
    envs.reset()
    for _ in range(30):
        obs, action_mask = (
            envs.observations[:, 0],
            envs.action_mask[:, 0] if envs.world.has_action_mask else None,
        )
        assert agent.compiled_policy is not None
        actions, _ = agent.act(obs, action_mask=action_mask)
        for k in range(9):
            single, _ = agent.act(obs[k : k + 1], action_mask=None if action_mask is None else action_mask[k : k + 1])
            assert single.tobytes() == actions[k : k + 1].tobytes()
        compiled_policy, agent.compiled_policy = agent.compiled_policy, None
        assert np.allclose(agent.act(obs, action_mask=action_mask)[0], actions, atol=1e-5)
        agent.compiled_policy = compiled_policy
        envs.random_actions()  # type: ignore[attr-defined]
        envs.step()
