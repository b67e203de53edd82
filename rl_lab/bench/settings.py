"""The settings of `bench rollout` and `bench train`: one table, from which all contenders take their hyperparameters.

So the lab's learner and a peer's do the same amount of work. `SETTINGS` is what `--setting NAME` chooses from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rl_lab.core.errors import UsageError, nearest

NETWORK = ("policy", "net_arch", "activation")  # entries of `config` for which the libraries have other names


@dataclass(frozen=True)
class Setting:
    """An algorithm, its number of environments, and all hyperparameters that affect the amount of computation.

    `config` has the names of the agent's Config, which are those of Stable-Baselines3, or RLlib's for rllib_ppo, except
    for the network.
    """

    agent: str
    num_envs: int
    config: dict[str, Any]

    def arguments(self) -> dict[str, Any]:
        """Return the hyperparameters that have the same names in Stable-Baselines3 and SBX."""
        return {name: value for name, value in self.config.items() if name not in NETWORK}

    def describe(self) -> str:
        """Return a short description of the sizes."""
        config = self.config
        network = "MinAtar CNN" if config["policy"] == "cnn" else "MLP " + "-".join(map(str, config["net_arch"]))
        if self.agent == "dqn":
            updates = f"{config['gradient_steps']} gradient step every {config['train_freq']} steps"
            return f"{self.num_envs} world, minibatch {config['batch_size']}, {updates}, {network}"
        if self.agent == "rllib_ppo":
            steps, minibatch, epochs = self.rollout_length, config["minibatch_size"], config["num_epochs"]
        else:
            steps, minibatch, epochs = config["n_steps"], config["batch_size"], config["n_epochs"]
        sizes = f"{self.num_envs:,} worlds x {steps} steps, minibatch {minibatch:,}"
        return f"{sizes}, {epochs} epoch{'s' * (epochs > 1)}, {network}"

    @property
    def rollout_length(self) -> int:
        """Return the number of steps of each world in a train batch of RLlib's."""
        return int(self.config["train_batch_size_per_learner"]) // self.num_envs


_PPO = {
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "normalize_advantage": True,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "policy": "mlp",
    "net_arch": [64, 64],
    "activation": "tanh",
}
_DQN = {
    "learning_rate": 1e-4,
    "buffer_size": 1_000_000,
    "learning_starts": 100,
    "batch_size": 32,
    "tau": 1.0,
    "gamma": 0.99,
    "train_freq": 4,
    "gradient_steps": 1,
    "target_update_interval": 10_000,
    # Epsilon has its final value from the start: random actions need no forward pass, which is to be measured.
    "exploration_initial_eps": 0.05,
    "exploration_final_eps": 0.05,
    "policy": "mlp",
    "net_arch": [64, 64],
    "activation": "relu",
}
# RLlib's PPO with the sizes of a run with many worlds. Hyperparameters that are not here have RLlib's defaults.
_RLLIB = {
    "lr": 3e-4,
    "train_batch_size_per_learner": 8192,
    "minibatch_size": 1024,
    "num_epochs": 4,
    "gamma": 0.99,
    "lambda_": 0.95,
    "clip_param": 0.2,
    "vf_clip_param": 10.0,
    "vf_loss_coeff": 1.0,
    "entropy_coeff": 0.0,
    "use_kl_loss": True,
    "kl_coeff": 0.2,
    "kl_target": 0.01,
    "grad_clip": 0.5,
    "policy": "mlp",
    "net_arch": [64, 64],
    "activation": "tanh",
}


def _ppo(num_envs: int, steps: int, minibatch: int, epochs: int, **changes: Any) -> Setting:
    return Setting("ppo", num_envs, {**_PPO, "n_steps": steps, "batch_size": minibatch, "n_epochs": epochs, **changes})


SETTINGS = {
    "small": _ppo(8, 256, 256, 10),
    "jax": _ppo(4, 128, 128, 4),
    "wide": _ppo(1024, 32, 8192, 4),
    "wide1": _ppo(1024, 32, 8192, 1),
    "cnn": _ppo(64, 128, 1024, 4, policy="cnn", net_arch=[], activation="relu"),
    "flat": _ppo(64, 128, 1024, 4),
    "dqn": Setting("dqn", 1, _DQN),
    "rllib": Setting("rllib_ppo", 512, _RLLIB),
}
MIN_NUM_ENVS_OF_WIDE = 256  # from this number of environments on, `wide` is the default setting


def setting_by_name(name: str) -> Setting:
    """Return a setting by name. Raises UsageError, with the nearest name, for an unknown one."""
    if name not in SETTINGS:
        raise UsageError(f"no setting {name!r}; {nearest(name, SETTINGS)}")
    return SETTINGS[name]
