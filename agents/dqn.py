"""DQN: deep Q-learning with a replay buffer and a target network, Stable-Baselines3's. For discrete actions.

Source: Mnih et al. 2015
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rl_lab.agent import Agent, Learner, Saved, check_bounds, hyperparameter
from rl_lab.batch import WorldInfo, Worlds


@dataclass(frozen=True)
class Config:
    """Hyperparameters; defaults and names are Stable-Baselines3's, but for a buffer that fits small worlds."""

    learning_rate: float = hyperparameter(1e-4, "of Adam", low=0)
    buffer_size: int = hyperparameter(100_000, "replay buffer", "transitions", low=1)
    learning_starts: int = hyperparameter(100, "steps taken at random before the first update", "steps", low=0)
    batch_size: int = hyperparameter(32, "minibatch", "transitions", low=1)
    tau: float = hyperparameter(1.0, "share of the network copied into the target network", low=0, high=1)
    gamma: float = hyperparameter(0.99, "discount", low=0, high=1)
    train_freq: int = hyperparameter(4, "steps in each world between updates", "steps", low=1)
    gradient_steps: int = hyperparameter(1, "gradient steps in an update", low=1)
    target_update_interval: int = hyperparameter(10_000, "between updates of the target network", "steps", low=1)
    exploration_fraction: float = hyperparameter(0.1, "share of the budget over which exploration falls", low=0, high=1)
    exploration_initial_eps: float = hyperparameter(1.0, "probability of a random action at first", low=0, high=1)
    exploration_final_eps: float = hyperparameter(0.05, "probability of a random action in the end", low=0, high=1)
    max_grad_norm: float = hyperparameter(10.0, "gradients are clipped to this norm", low=0)
    double_q: bool = hyperparameter(False, "the network chooses the next action, the target network values it")
    n_steps: int = hyperparameter(1, "rewards summed before the next state's value is asked for", "steps", low=1)
    priority_exponent: float = hyperparameter(0.0, "of prioritised replay; 0: sample uniformly", low=0, high=1)
    importance_exponent: float = hyperparameter(
        0.4, "of the correction for priorities at first; 1 in the end", low=0, high=1
    )
    policy: str = hyperparameter("mlp", "mlp, or cnn for boards and images")
    net_arch: list[int] = hyperparameter([64, 64], "hidden layers of the Q-network", "units")
    activation: str = hyperparameter("relu", "tanh, relu, elu or silu")
    normalize_observations: bool = hyperparameter(False, "standardise observations by running statistics")
    normalize_rewards: bool = hyperparameter(False, "scale rewards by the running deviation of returns")
    agent_indicator: bool = hyperparameter(False, "tell agents that share the policy apart: which one, one-hot")
    compiled: bool = hyperparameter(True, "act and learn in compiled code, where it knows the network")


_COMPILED_ONLY = ("double_q", "n_steps", "priority_exponent", "importance_exponent")


def _policy_arguments(config: Config, world: WorldInfo) -> dict[str, Any]:
    from rl_lab.adapters.sb3_policy import policy_arguments

    return policy_arguments(world, config.policy, config.net_arch, config.activation)


def learner(config: Config, worlds: Worlds, *, budget: int, seed: int, device: str) -> Learner:
    """Return DQN at its start. Raises ValueError for continuous actions."""
    from stable_baselines3 import DQN

    from rl_lab.adapters.sb3_agent import only_discrete
    from rl_lab.adapters.sb3_fast_dqn import FastDQN
    from rl_lab.adapters.sb3_learner import Sb3Learner

    only_discrete("dqn", worlds.world)
    check_bounds(config)
    same = "learning_rate buffer_size learning_starts batch_size tau gamma train_freq gradient_steps".split()
    same += "target_update_interval exploration_fraction exploration_initial_eps exploration_final_eps".split()
    same += ["max_grad_norm"]
    more = {name: getattr(config, name) for name in _COMPILED_ONLY}
    if not config.compiled and more != {name: getattr(Config, name) for name in _COMPILED_ONLY}:
        raise ValueError(f"{', '.join(_COMPILED_ONLY)} need the compiled learner: leave compiled=false out")
    return Sb3Learner(
        "dqn",
        FastDQN if config.compiled else DQN,
        worlds,
        budget=budget,
        seed=seed,
        device=device,
        normalize_observations=config.normalize_observations,
        normalize_rewards=config.normalize_rewards,
        indicator=config.agent_indicator,
        arguments={
            **{name: getattr(config, name) for name in same},
            **(more if config.compiled else {}),
            "policy_kwargs": _policy_arguments(config, worlds.world),
        },
    )


def load(config: Config, world: WorldInfo, saved: Saved, *, device: str) -> Agent:
    """Return a trained DQN agent."""
    from stable_baselines3.dqn import MlpPolicy

    from rl_lab.adapters.sb3_agent import load_policy, only_discrete
    from rl_lab.adapters.sb3_policy import build_policy

    only_discrete("dqn", world)
    indicator = config.agent_indicator
    policy = build_policy(MlpPolicy, world, indicator=indicator, **_policy_arguments(config, world)).to(device)
    agents = len(world.agents) if indicator else 0
    return load_policy(policy, "dqn", saved, normalized=config.normalize_observations, indicator=agents)
