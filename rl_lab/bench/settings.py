"""The work that learners are timed on: one table, from which every contender takes its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..names import UsageError, nearest

NETWORK = ("policy", "net_arch", "activation")  # how a config names a network; the libraries have words of their own


@dataclass(frozen=True)
class Setting:
    """An algorithm, the worlds in its batch, and all hyperparameters that decide how much it computes.

    `config` has the names of the agent's Config, which are Stable-Baselines3's but for the network's.
    """

    agent: str
    worlds: int
    config: dict[str, Any]

    def arguments(self) -> dict[str, Any]:
        """Return the hyperparameters that Stable-Baselines3 and SBX know by the same names."""
        return {name: value for name, value in self.config.items() if name not in NETWORK}

    def shown(self) -> str:
        """Return the sizes in a few words."""
        c = self.config
        network = "MinAtar CNN" if c["policy"] == "cnn" else "MLP " + "-".join(map(str, c["net_arch"]))
        if self.agent == "dqn":
            sizes = f"minibatch {c['batch_size']}, {c['gradient_steps']} gradient step every {c['train_freq']} steps"
            return f"{self.worlds} world, {sizes}, {network}"
        sizes = f"{self.worlds:,} worlds x {c['n_steps']} steps, minibatch {c['batch_size']:,}"
        return f"{sizes}, {c['n_epochs']} epoch{'s' * (c['n_epochs'] > 1)}, {network}"


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
    # At its lowest from the start: a policy that still acts at random has no network to ask, and that is not the work.
    "exploration_initial_eps": 0.05,
    "exploration_final_eps": 0.05,
    "policy": "mlp",
    "net_arch": [64, 64],
    "activation": "relu",
}


def _ppo(worlds: int, steps: int, minibatch: int, epochs: int, **more: Any) -> Setting:
    return Setting("ppo", worlds, {**_PPO, "n_steps": steps, "batch_size": minibatch, "n_epochs": epochs, **more})


SETTINGS = {
    "small": _ppo(8, 256, 256, 10),
    "jax": _ppo(4, 128, 128, 4),
    "wide": _ppo(1024, 32, 8192, 4),
    "wide1": _ppo(1024, 32, 8192, 1),
    "cnn": _ppo(64, 128, 1024, 4, policy="cnn", net_arch=[], activation="relu"),
    "flat": _ppo(64, 128, 1024, 4),
    "dqn": Setting("dqn", 1, _DQN),
}
MANY = 256  # worlds from which on `wide` is what a user would choose


def named(name: str) -> Setting:
    """Return a setting; UsageError, with the nearest name, where there is none."""
    if name not in SETTINGS:
        raise UsageError(f"no setting {name!r}; {nearest(name, SETTINGS)}")
    return SETTINGS[name]
