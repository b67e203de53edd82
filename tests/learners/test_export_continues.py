"""An exported agent goes on learning in the library as the run stood, and plays its environment outside the lab."""

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
# Of each run: the library's algorithm, the command, the settings that the library is told.
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


def trained(folder: Path, words: list[str], settings: dict[str, Any]) -> Path:
    told = [f"agent.{key}={value}" for key, value in settings.items()]
    assert main(["train", *words, *QUICK, "agent.net_arch=[16,16]", *told, f"run_dir={folder / 'run'}"]) == 0
    return folder / "run"


def exported(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["export", str(run), str(folder / "agent.zip"), "--json"]) == 0
    written: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return written


def envs_of(world: str, written: dict[str, Any]) -> Any:
    env = LabVecEnv(make.make(world, 4, seed=3))
    return VecNormalize.load(written["normalizer"], env) if "normalizer" in written else env


@pytest.mark.parametrize("case", RUNS)
def test_learning_goes_on_as_the_librarys_own_would(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is built from the settings as typed, and from the tensors of the run's whole-state checkpoint."""
    kind, words, settings = RUNS[case]
    run = trained(tmp_path, words, settings)
    whole, _ = latest(run / "checkpoints")
    assert whole is not None
    state, tensors = whole.state["learner"], whole.tensors
    written = exported(run, tmp_path, capsys)

    model = kind.load(written["agent"], envs_of(words[0], written), device="cpu")
    activation = torch.nn.ReLU if kind is DQN else torch.nn.Tanh
    kwargs = {"net_arch": [16, 16], "activation_fn": activation}
    oracle = kind("MlpPolicy", envs_of(words[0], written), device="cpu", policy_kwargs=kwargs, **settings)
    oracle.policy.load_state_dict(as_tensors(tensors["policy"]))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in as_tensors(tensors["optimizer"]).items():
        moments.setdefault(int(key.split(".")[0]), {})[key.split(".")[1]] = value
    oracle.policy.optimizer.load_state_dict({"state": moments, "param_groups": state["optimizer_groups"]})
    oracle._n_updates, oracle._n_calls = state["updates"], state.get("calls", 0)
    assert (model.num_timesteps, model._n_updates) == (state["steps"], state["updates"])
    if "normalizer" in written:
        kept, rms = tensors["normalizer"], model.get_env()
        assert np.array_equal(rms.obs_rms.mean, kept["observation_mean"])
        assert np.array_equal(rms.ret_rms.var, kept["return_var"])
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
        "the optimizer counts on"
    )


def test_schedules_and_the_agent_of_an_earlier_step_go_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, ["cartpole", "agent.learning_rate_schedule=linear"], ON_POLICY)
    model = PPO.load(exported(run, tmp_path, capsys)["agent"], device="cpu")
    assert [model.lr_schedule(left) for left in (1.0, 0.25, 0.0)] == pytest.approx([1e-3, 2.5e-4, 0.0])
    # The kept agent carries its own optimizer: no whole-state checkpoint of its step is needed.
    for folder in (run / "checkpoints").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    again = exported(run, tmp_path, capsys)
    assert not any("optimizer" in note for note in again["notes"])
    assert PPO.load(again["agent"], device="cpu").policy.optimizer.state_dict()["state"]


def test_a_whole_state_checkpoint_is_exported_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, ["cartpole", "checkpoint.steps=512"], {**ON_POLICY, "target_kl": 0.5})
    folder = sorted((run / "checkpoints").glob("step-*"))[0]
    written = exported(folder, tmp_path, capsys)
    model = PPO.load(written["agent"], device="cpu")
    assert model.num_timesteps == written["step"] < 1000
    assert model.policy.optimizer.state_dict()["state"] and model.n_envs == 4


def test_what_the_library_does_not_know_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, ["cartpole", "agent=dqn"], {**OFF_POLICY, "double_q": True, "priority_exponent": 0.5})
    notes = "\n".join(exported(run, tmp_path, capsys)["notes"])
    for word in ("double_q=True", "priority_exponent=0.5", "replay buffer", "random generators"):
        assert word in notes
    assert main(["export", str(run), str(tmp_path / "agent.zip")]) == 0
    assert "note: double_q" in capsys.readouterr().out


def test_a_network_of_the_labs_own_needs_nothing_of_the_lab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, ["catch", "agent.policy=cnn", "agent.normalize_rewards=true"], ON_POLICY)
    written = exported(run, tmp_path, capsys)
    lines = "import sys, pickle, numpy\nfrom stable_baselines3 import PPO\n"
    lines += f"model = PPO.load({written['agent']!r})\npickle.load(open({written['normalizer']!r}, 'rb'))\n"
    lines += "model.predict(numpy.zeros((10, 5), numpy.float32))\n"
    lines += "assert not any(m.startswith('rl_lab') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", lines], check=True, cwd=tmp_path)


def test_the_normaliser_can_be_made_again_without_unpickling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, *RUNS["normalised ppo"][1:])
    written = exported(run, tmp_path, capsys)
    plain = json.loads(Path(written["statistics"]).read_text())
    made = VecNormalize(LabVecEnv(make.make("pendulum", 4)), **plain["settings"])
    for name in ("obs_rms", "ret_rms"):
        for part, value in plain[name].items():
            setattr(getattr(made, name), part, np.array(value) if part != "count" else value)
    loaded = VecNormalize.load(written["normalizer"], LabVecEnv(make.make("pendulum", 4)))
    seen = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert np.array_equal(made.normalize_obs(seen), loaded.normalize_obs(seen))
    assert np.array_equal(made.normalize_reward(seen[:, 0]), loaded.normalize_reward(seen[:, 0]))
