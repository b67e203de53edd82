"""An agent written as the library's own zip acts there as it does here."""

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
from rl_lab.commands.evaluate import find_agent
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
    kind, words = RUNS[case]
    quick = ["video=false", "evaluation.episodes=2", "evaluation.selections=1", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", *words, *quick]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "agent.zip"), "--json"]) == 0
    written = json.loads(capsys.readouterr().out.splitlines()[-1])
    agent, scenario, *_ = find_agent(str(tmp_path / "run"), [])
    envs = make.make(scenario.world, 32, seed=5)
    envs.reset()
    stock = kind.load(written["agent"])
    assert type(stock) is kind
    for _ in range(20):
        seen = envs.observations[:, 0]
        action_mask = envs.action_mask[:, 0] if envs.world.has_action_mask else None
        own, _ = agent.act(seen, action_mask=action_mask)
        given = (
            VecNormalize.load(written["normalizer"], LabVecEnv(envs)).normalize_obs(seen) if case == "numbers" else seen
        )
        more = {"action_masks": action_mask} if action_mask is not None else {}
        assert np.allclose(own, stock.predict(given, deterministic=True, **more)[0], atol=1e-6)
        envs.random_actions()  # type: ignore[attr-defined]
        envs.step()


def test_the_zip_needs_nothing_of_the_lab(tmp_path: Path) -> None:
    quick = ["video=false", "evaluation.episodes=2", "evaluation.selections=1", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", "cartpole", "budget=1000", *quick]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "agent.zip")]) == 0
    lines = "import sys\nfrom stable_baselines3 import PPO\n"
    lines += f"PPO.load({str(tmp_path / 'agent.zip')!r})\nassert not any(m.startswith('rl_lab') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", lines], check=True, cwd=tmp_path)


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["nowhere", "a.zip"], ["nowhere", "a.bin"], ["nowhere", str(tmp_path / "no" / "a.zip")]):
        assert main(["export", *words]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("case", RUNS)
def test_compiled_decisions_are_the_policys_own(case: str) -> None:
    """On weights that no training gives, over observations as random play finds them."""
    kind, (world, *words) = RUNS[case]
    scenario = compose(world, words)
    learner, _ = make_learner(scenario)
    agent: Any = learner.agent()
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    envs = make.make(world, 64, seed=1)
    envs.reset()
    for _ in range(30):
        seen, action_mask = (
            envs.observations[:, 0],
            envs.action_mask[:, 0] if envs.world.has_action_mask else None,
        )
        assert agent.compiled_policy is not None
        own, _ = agent.act(seen, action_mask=action_mask)
        for k in range(9):
            alone, _ = agent.act(seen[k : k + 1], action_mask=None if action_mask is None else action_mask[k : k + 1])
            assert alone.tobytes() == own[k : k + 1].tobytes()
        compiled_policy, agent.compiled_policy = agent.compiled_policy, None
        assert np.allclose(agent.act(seen, action_mask=action_mask)[0], own, atol=1e-5)
        agent.compiled_policy = compiled_policy
        envs.random_actions()  # type: ignore[attr-defined]
        envs.step()
