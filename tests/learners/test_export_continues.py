"""Training of an exported agent continues in Stable-Baselines3 with the settings, optimizer and statistics of its run.

Each test trains a small run in a temporary folder with `rl-lab train`, exports it, and loads the file with SB3.
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
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from rl_lab.adapters import make
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.cli import main
from rl_lab.core.checkpoint import latest
from rl_lab.learners.sb3.training_state import as_tensors

ON_POLICY = dict(n_steps=32, batch_size=64, n_epochs=3, gamma=0.98, gae_lambda=0.9, clip_range=0.3)
ON_POLICY |= dict(ent_coef=0.01, vf_coef=0.4, max_grad_norm=0.7, target_kl=0.5, learning_rate=1e-3)
OFF_POLICY = dict(learning_rate=2e-3, buffer_size=5000, learning_starts=64, batch_size=16, tau=0.5, gamma=0.97)
OFF_POLICY |= dict(train_freq=2, gradient_steps=3, target_update_interval=64, exploration_fraction=0.3)
OFF_POLICY |= dict(exploration_initial_eps=0.8, exploration_final_eps=0.1, max_grad_norm=5.0)
# Of each run: SB3's algorithm, the words of the command, the settings of the agent.
RUNS: dict[str, tuple[Any, list[str], dict[str, Any]]] = {
    "compiled ppo": (PPO, ["cartpole", "agent.learning_rate_schedule=constant"], ON_POLICY),
    "library's ppo": (PPO, ["cartpole", "agent.compiled=false", "agent.learning_rate_schedule=constant"], ON_POLICY),
    "normalised ppo": (
        PPO,
        ["pendulum", "agent.use_sde=true", "agent.sde_sample_freq=4", "agent.normalize_observations=true"]
        + ["agent.normalize_rewards=true", "agent.learning_rate_schedule=constant"],
        {**ON_POLICY, "use_sde": True, "sde_sample_freq": 4},
    ),
    "masked ppo": (MaskablePPO, ["tic_tac_toe", "agent.learning_rate_schedule=constant"], ON_POLICY),
    "dqn": (DQN, ["cartpole", "agent=dqn"], OFF_POLICY),
    "dqn of three steps": (DQN, ["cartpole", "agent=dqn"], {**OFF_POLICY, "n_steps": 3}),
}
QUICK = ["video=false", "evaluation.episodes=2", "evaluation.selections=1", "worlds=4", "budget=1000"]


def train_run(folder: Path, overrides: list[str], settings: dict[str, Any]) -> Path:
    """Train a small run; return its folder."""
    agent_settings = [f"agent.{key}={value}" for key, value in settings.items()]
    assert (
        main(["train", *overrides, *QUICK, "agent.net_arch=[16,16]", *agent_settings, f"run_dir={folder / 'run'}"]) == 0
    )
    return folder / "run"


def export_run(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["export", str(run), str(folder / "agent.zip"), "--json"]) == 0
    files: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return files


def envs_of(world: str, files: dict[str, Any]) -> Any:
    env = LabVecEnv(make.make(world, 4, seed=3))
    return VecNormalize.load(files["normalizer"], env) if "normalizer" in files else env


@pytest.mark.parametrize("case", RUNS)
def test_learning_continues_as_in_an_sb3_model_with_the_same_state(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is built from the settings as typed, and from the tensors of the run's whole-state checkpoint."""
    algorithm, overrides, settings = RUNS[case]
    run = train_run(tmp_path, overrides, settings)
    checkpoint, _ = latest(run / "checkpoints")
    assert checkpoint is not None
    state, tensors = checkpoint.state["learner"], checkpoint.tensors
    files = export_run(run, tmp_path, capsys)

    model = algorithm.load(files["agent"], envs_of(overrides[0], files), device="cpu")
    activation = torch.nn.ReLU if algorithm is DQN else torch.nn.Tanh
    kwargs = {"net_arch": [16, 16], "activation_fn": activation}
    oracle = algorithm("MlpPolicy", envs_of(overrides[0], files), device="cpu", policy_kwargs=kwargs, **settings)
    oracle.policy.load_state_dict(as_tensors(tensors["policy"]))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in as_tensors(tensors["optimizer"]).items():
        moments.setdefault(int(key.split(".")[0]), {})[key.split(".")[1]] = value
    oracle.policy.optimizer.load_state_dict({"state": moments, "param_groups": state["optimizer_groups"]})
    oracle._n_updates, oracle._n_calls = state["updates"], state.get("calls", 0)
    assert (model.num_timesteps, model._n_updates) == (state["steps"], state["updates"])
    if "normalizer" in files:
        saved, rms = tensors["normalizer"], model.get_env()
        assert np.array_equal(rms.obs_rms.mean, saved["observation_mean"])
        assert np.array_equal(rms.ret_rms.var, saved["return_var"])
        assert [rms.obs_rms.count, rms.ret_rms.count] == state["normalizer_counts"]
        assert rms.gamma == settings["gamma"] and rms.norm_reward and rms.training
    for learner in (model, oracle):
        set_random_seed(11)
        learner.action_space.seed(11)
        if getattr(learner, "use_sde", False):
            learner.policy.reset_noise()
        learner.learn(1000)
    before = as_tensors(tensors["policy"])
    for name, value in oracle.policy.state_dict().items():
        assert torch.equal(model.policy.state_dict()[name], value), name
    assert any(not torch.equal(before[name], value) for name, value in model.policy.state_dict().items())
    counts = model.policy.optimizer.state_dict()["state"]
    assert all(float(counts[i]["step"]) > float(tensors["optimizer"][f"{i}.step"]) for i in moments), (
        "the optimizer continues its count of steps"
    )


def test_schedules_are_exported_and_the_kept_agent_has_its_own_optimizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(tmp_path, ["cartpole", "agent.learning_rate_schedule=linear"], ON_POLICY)
    model = PPO.load(export_run(run, tmp_path, capsys)["agent"], device="cpu")
    assert [model.lr_schedule(left) for left in (1.0, 0.25, 0.0)] == pytest.approx([1e-3, 2.5e-4, 0.0])
    # The kept agent carries its own optimizer: no whole-state checkpoint of its step is needed.
    for folder in (run / "checkpoints").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    files_again = export_run(run, tmp_path, capsys)
    assert not any("optimizer" in note for note in files_again["notes"])
    assert PPO.load(files_again["agent"], device="cpu").policy.optimizer.state_dict()["state"]


def test_a_checkpoint_is_exported_with_its_own_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run(tmp_path, ["cartpole", "checkpoint.steps=512"], {**ON_POLICY, "target_kl": 0.5})
    folder = sorted((run / "checkpoints").glob("step-*"))[0]
    files = export_run(folder, tmp_path, capsys)
    model = PPO.load(files["agent"], device="cpu")
    assert model.num_timesteps == files["step"] < 1000
    assert model.policy.optimizer.state_dict()["state"] and model.n_envs == 4


def test_notes_name_what_sb3_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run(tmp_path, ["cartpole", "agent=dqn"], {**OFF_POLICY, "double_q": True, "priority_exponent": 0.5})
    notes = "\n".join(export_run(run, tmp_path, capsys)["notes"])
    for word in ("double_q=True", "priority_exponent=0.5", "replay buffer", "random generators"):
        assert word in notes
    assert main(["export", str(run), str(tmp_path / "agent.zip")]) == 0
    assert "note: double_q" in capsys.readouterr().out


def test_a_network_class_of_the_lab_is_loaded_without_the_lab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(tmp_path, ["catch", "agent.policy=cnn", "agent.normalize_rewards=true"], ON_POLICY)
    files = export_run(run, tmp_path, capsys)
    lines = "import sys, pickle, numpy\nfrom stable_baselines3 import PPO\n"
    lines += f"model = PPO.load({files['agent']!r})\npickle.load(open({files['normalizer']!r}, 'rb'))\n"
    lines += "model.predict(numpy.zeros((10, 5), numpy.float32))\n"
    lines += "assert not any(m.startswith('rl_lab') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", lines], check=True, cwd=tmp_path)


def test_vec_normalize_can_be_rebuilt_from_the_json_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run(tmp_path, *RUNS["normalised ppo"][1:])
    files = export_run(run, tmp_path, capsys)
    statistics = json.loads(Path(files["statistics"]).read_text())
    rebuilt = VecNormalize(LabVecEnv(make.make("pendulum", 4)), **statistics["settings"])
    for name in ("obs_rms", "ret_rms"):
        for part, value in statistics[name].items():
            setattr(getattr(rebuilt, name), part, np.array(value) if part != "count" else value)
    loaded = VecNormalize.load(files["normalizer"], LabVecEnv(make.make("pendulum", 4)))
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert np.array_equal(rebuilt.normalize_obs(obs), loaded.normalize_obs(obs))
    assert np.array_equal(rebuilt.normalize_reward(obs[:, 0]), loaded.normalize_reward(obs[:, 0]))
