"""Agent `dqn`: deep Q-learning with a replay buffer and a target network, as in Stable-Baselines3.

This file has the hyperparameters and their checks; the learner is in `rl_lab.learners.sb3`. It is for discrete actions.

Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; Hessel et al. 2018, "Rainbow:
combining improvements in deep reinforcement learning" (double Q, n-step returns, prioritised replay).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rl_lab.core.agent import Agent, Learner, StateDict, check_bounds, hyperparameter
from rl_lab.core.protocols import BatchedEnv, EnvSpec

if TYPE_CHECKING:
    from rl_lab.learners.pretraining.settings import BackboneSettings

TAKES_BACKBONE = True


@dataclass(frozen=True)
class Config:
    """The hyperparameters; names and defaults are Stable-Baselines3's, except for a smaller replay buffer."""

    learning_rate: float = hyperparameter(1e-4, "learning rate of Adam", low=0)
    buffer_size: int = hyperparameter(100_000, "replay buffer", "transitions", low=1)
    learning_starts: int = hyperparameter(100, "steps taken at random before the first update", "steps", low=0)
    batch_size: int = hyperparameter(32, "minibatch", "transitions", low=1)
    tau: float = hyperparameter(1.0, "share of the network copied into the target network", low=0, high=1)
    gamma: float = hyperparameter(0.99, "discount", low=0, high=1)
    train_freq: int = hyperparameter(4, "steps in each world between updates", "steps", low=1)
    gradient_steps: int = hyperparameter(1, "gradient steps in an update", low=1)
    target_update_interval: int = hyperparameter(10_000, "time between updates of the target network", "steps", low=1)
    exploration_fraction: float = hyperparameter(0.1, "share of the budget over which exploration falls", low=0, high=1)
    exploration_initial_eps: float = hyperparameter(1.0, "probability of a random action at first", low=0, high=1)
    exploration_final_eps: float = hyperparameter(0.05, "probability of a random action in the end", low=0, high=1)
    max_grad_norm: float = hyperparameter(10.0, "gradients are clipped to this norm", low=0)
    double_q: bool = hyperparameter(False, "the network chooses the next action, the target network values it")
    n_steps: int = hyperparameter(1, "rewards summed before the bootstrapped value", "steps", low=1)
    priority_exponent: float = hyperparameter(0.0, "alpha of prioritised replay; 0: sample uniformly", low=0, high=1)
    importance_exponent: float = hyperparameter(
        0.4, "initial beta of the importance weights of prioritised replay; 1 in the end", low=0, high=1
    )
    policy: str = hyperparameter("mlp", "mlp, or cnn for boards and images")
    net_arch: list[int] = hyperparameter([64, 64], "hidden layers of the Q-network", "units")
    activation: str = hyperparameter("relu", "tanh, relu, elu or silu")
    normalize_observations: bool = hyperparameter(False, "standardise observations by running statistics")
    normalize_rewards: bool = hyperparameter(False, "scale rewards by the running deviation of returns")
    agent_indicator: bool = hyperparameter(False, "add the agent's index, one-hot, for agents that share the policy")
    compiled: bool = hyperparameter(True, "act and learn in compiled code, if it supports the network")


_COMPILED_ONLY = ("double_q", "priority_exponent", "importance_exponent")  # fields that SB3's DQN does not have


def _policy_arguments(config: Config, world: EnvSpec, backbone: BackboneSettings | None = None) -> dict[str, Any]:
    """Return the arguments of SB3's policy class; with a backbone, it replaces the network of the configuration."""
    from rl_lab.learners.sb3.backbone import backbone_policy_arguments
    from rl_lab.learners.sb3.policies import policy_arguments

    if backbone is not None:
        return backbone_policy_arguments(backbone, world)
    return policy_arguments(world, config.policy, config.net_arch, config.activation)


def library_arguments(config: Config, world: EnvSpec, backbone: BackboneSettings | None = None) -> dict[str, Any]:
    """Return the arguments of `stable_baselines3.DQN` for this configuration."""
    # The fields that SB3's DQN has under the same name.
    names = "learning_rate buffer_size learning_starts batch_size tau gamma train_freq gradient_steps n_steps".split()
    names += "target_update_interval exploration_fraction exploration_initial_eps exploration_final_eps".split()
    names += ["max_grad_norm"]
    arguments = {name: getattr(config, name) for name in names}
    return {**arguments, "policy_kwargs": _policy_arguments(config, world, backbone)}


def learner(
    config: Config,
    envs: BatchedEnv,
    *,
    budget: int,
    seed: int,
    device: str,
    backbone: BackboneSettings | None = None,
) -> Learner:
    """Return a new DQN learner. Raises ValueError for continuous actions."""
    from stable_baselines3 import DQN

    from rl_lab.learners.sb3.agent import require_discrete_actions
    from rl_lab.learners.sb3.backbone import handoff
    from rl_lab.learners.sb3.dqn import CompiledDQN
    from rl_lab.learners.sb3.learner import Sb3Learner

    require_discrete_actions("dqn", envs.world)
    check_bounds(config)
    compiled_only = {name: getattr(config, name) for name in _COMPILED_ONLY}
    defaults = {name: getattr(Config, name) for name in _COMPILED_ONLY}
    if not config.compiled and compiled_only != defaults:
        raise ValueError(f"{', '.join(_COMPILED_ONLY)} need the compiled learner: leave compiled=false out")
    return Sb3Learner(
        "dqn",
        CompiledDQN if config.compiled else DQN,
        envs,
        budget=budget,
        seed=seed,
        device=device,
        normalize_observations=config.normalize_observations,
        normalize_rewards=config.normalize_rewards,
        indicator=config.agent_indicator,
        backbone=handoff(backbone, config),
        arguments={**library_arguments(config, envs.world, backbone), **(compiled_only if config.compiled else {})},
    )


def load(
    config: Config, world: EnvSpec, state_dict: StateDict, *, device: str, backbone: BackboneSettings | None = None
) -> Agent:
    """Return a trained DQN agent."""
    from stable_baselines3.dqn import MlpPolicy

    from rl_lab.adapters.structured import structure_of
    from rl_lab.learners.sb3.agent import load_policy, require_discrete_actions
    from rl_lab.learners.sb3.backbone import saved_encoder
    from rl_lab.learners.sb3.policies import build_policy

    require_discrete_actions("dqn", world)
    indicator = config.agent_indicator
    encoder = saved_encoder(backbone, state_dict, device)
    options: dict[str, Any] = {"indicator": indicator, "normalized": config.normalize_observations}
    options["features"] = None if encoder is None else encoder.space
    policy = build_policy(MlpPolicy, world, **options, **_policy_arguments(config, world, backbone)).to(device)
    extra = {
        "indicator": len(world.agents) if indicator else 0,
        "structure": structure_of(world),
        "encoder": encoder,
    }
    return load_policy(policy, "dqn", state_dict, normalized=config.normalize_observations, **extra)
