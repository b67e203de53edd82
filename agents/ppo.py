"""Agent `ppo`: proximal policy optimisation, as in Stable-Baselines3, for discrete and continuous actions.

This file has the hyperparameters and their checks; the learner is in `rl_lab.learners.sb3`.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms".
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
    """The hyperparameters; names and defaults are Stable-Baselines3's."""

    learning_rate: float = hyperparameter(3e-4, "learning rate of Adam", low=0)
    learning_rate_schedule: str = hyperparameter("constant", "constant, or linear to zero at the budget's end")
    n_steps: int = hyperparameter(2048, "rollout length in each world", "steps", low=1)
    batch_size: int = hyperparameter(64, "minibatch", "rows", low=1)
    n_epochs: int = hyperparameter(10, "passes over a rollout", low=1)
    gamma: float = hyperparameter(0.99, "discount", low=0, high=1)
    gae_lambda: float = hyperparameter(0.95, "lambda of generalised advantage estimation", low=0, high=1)
    clip_range: float = hyperparameter(0.2, "clipping range of the probability ratio around 1", low=0)
    normalize_advantage: bool = hyperparameter(True, "standardise advantages in each minibatch")
    ent_coef: float = hyperparameter(0.0, "weight of the entropy bonus")
    vf_coef: float = hyperparameter(0.5, "weight of the value loss")
    max_grad_norm: float = hyperparameter(0.5, "gradients are clipped to this norm", low=0)
    target_kl: float | None = hyperparameter(None, "stop an update's epochs beyond 1.5 times this divergence", low=0)
    use_sde: bool = hyperparameter(False, "state-dependent exploration, for continuous actions")
    sde_sample_freq: int = hyperparameter(-1, "steps between new exploration matrices; -1: once a rollout", "steps")
    policy: str = hyperparameter("mlp", "mlp, cnn for boards and images, or gru, which remembers")
    net_arch: list[int] = hyperparameter([64, 64], "hidden layers of policy and value networks", "units")
    activation: str = hyperparameter("tanh", "tanh, relu, elu or silu")
    log_std_init: float = hyperparameter(0.0, "initial log standard deviation of continuous actions")
    ortho_init: bool = hyperparameter(True, "orthogonal initial weights")
    normalize_observations: bool = hyperparameter(False, "standardise observations by running statistics")
    normalize_rewards: bool = hyperparameter(False, "scale rewards by the running deviation of returns")
    agent_indicator: bool = hyperparameter(False, "add the agent's index, one-hot, for agents that share the policy")
    compiled: bool = hyperparameter(True, "roll out and learn in compiled code, if it supports the network")
    recurrent_size: int = hyperparameter(64, "gru: size of its state", "units", low=1, high=2**13)
    sequence_length: int = hyperparameter(32, "gru: steps through which gradients flow back", "steps", low=1)
    burn_in: int = hyperparameter(0, "gru: steps before a sequence that bring its state up to date", "steps", low=0)


def _policy_arguments(config: Config, world: EnvSpec, backbone: BackboneSettings | None = None) -> dict[str, Any]:
    """Return the arguments of SB3's policy class; with a backbone, it replaces the network of the configuration."""
    from rl_lab.learners.sb3.backbone import backbone_policy_arguments
    from rl_lab.learners.sb3.policies import policy_arguments
    from rl_lab.learners.sb3.recurrent_policy import recurrent_policy_arguments

    if config.policy == "gru":
        arguments = recurrent_policy_arguments(world, config.net_arch, config.activation, config.recurrent_size)
    elif backbone is None:
        arguments = policy_arguments(world, config.policy, config.net_arch, config.activation)
    else:
        arguments = backbone_policy_arguments(backbone, world)
    return {
        **arguments,
        "log_std_init": config.log_std_init,
        "ortho_init": config.ortho_init,
        "use_sde": config.use_sde,
    }


def library_arguments(config: Config, world: EnvSpec, backbone: BackboneSettings | None = None) -> dict[str, Any]:
    """Return the arguments of `stable_baselines3.PPO` for this configuration."""
    from stable_baselines3.common.utils import LinearSchedule

    policy = _policy_arguments(config, world, backbone)
    policy.pop("use_sde")
    # The fields that SB3's PPO has under the same name.
    names = "n_steps batch_size n_epochs gamma gae_lambda clip_range normalize_advantage ent_coef vf_coef".split()
    names += ["max_grad_norm", "target_kl", "use_sde", "sde_sample_freq"]
    rate: Any = config.learning_rate
    if config.learning_rate_schedule == "linear":
        rate = LinearSchedule(rate, 0.0, 1.0)
    return {**{name: getattr(config, name) for name in names}, "learning_rate": rate, "policy_kwargs": policy}


def learner(
    config: Config,
    envs: BatchedEnv,
    *,
    budget: int,
    seed: int,
    device: str,
    backbone: BackboneSettings | None = None,
) -> Learner:
    """Return a new PPO learner. Raises ValueError for hyperparameters that are not compatible."""
    from stable_baselines3 import PPO

    from rl_lab.learners.sb3.backbone import handoff
    from rl_lab.learners.sb3.learner import Sb3Learner
    from rl_lab.learners.sb3.ppo import CompiledPPO
    from rl_lab.learners.sb3.recurrent_policy import check_sequences
    from rl_lab.learners.sb3.recurrent_ppo import RecurrentPPO

    check_bounds(config)
    if config.learning_rate_schedule not in ("constant", "linear"):
        raise ValueError(f"learning_rate_schedule={config.learning_rate_schedule!r}: expected constant or linear")
    _check_recurrent(config, backbone)
    num_agents, num_envs = len(envs.world.agents), envs.num_envs
    rows = config.n_steps * num_envs * num_agents
    if rows % config.batch_size or rows < 2:
        raise ValueError(
            f"batch_size={config.batch_size} does not divide a rollout of {config.n_steps} steps x {num_envs} worlds"
            + f" x {num_agents} agents" * (num_agents > 1)
        )
    arguments = library_arguments(config, envs.world, backbone)
    if config.learning_rate_schedule == "linear":
        # SB3's progress goes from 1 to 0, and below it where the last rollout exceeds the budget.
        rate = config.learning_rate
        arguments["learning_rate"] = lambda progress_remaining: max(progress_remaining, 0.0) * rate
    algorithm: Any = CompiledPPO if config.compiled else PPO
    if config.policy == "gru":
        sizes = config.n_steps, config.batch_size, config.sequence_length
        algorithm, arguments["burn_in"] = RecurrentPPO, config.burn_in
        arguments["sequence_length"] = check_sequences(*sizes, config.burn_in)
    return Sb3Learner(
        "ppo",
        algorithm,
        envs,
        budget=budget,
        seed=seed,
        device=device,
        normalize_observations=config.normalize_observations,
        normalize_rewards=config.normalize_rewards,
        indicator=config.agent_indicator,
        backbone=handoff(backbone, config),
        arguments=arguments,
    )


def _check_recurrent(config: Config, backbone: BackboneSettings | None) -> None:
    """Raise ValueError for settings that do not go with policy=gru."""
    if config.policy == "gru" and backbone is not None:
        raise ValueError("policy=gru: a backbone has heads without a memory; leave one of the two out")
    if config.policy == "gru" and config.use_sde:
        raise ValueError("policy=gru: use_sde is not supported; leave one of the two out")


def load(
    config: Config, world: EnvSpec, state_dict: StateDict, *, device: str, backbone: BackboneSettings | None = None
) -> Agent:
    """Return a trained PPO agent."""
    from stable_baselines3.ppo import MlpPolicy

    from rl_lab.adapters.structured import structure_of
    from rl_lab.learners.sb3.agent import Sb3Agent, load_policy, maskable_policy
    from rl_lab.learners.sb3.backbone import saved_encoder
    from rl_lab.learners.sb3.policies import build_policy
    from rl_lab.learners.sb3.recurrent_agent import RecurrentAgent
    from rl_lab.learners.sb3.recurrent_policy import RecurrentPolicy

    arguments, indicator = _policy_arguments(config, world, backbone), config.agent_indicator
    encoder = saved_encoder(backbone, state_dict, device)
    policy_type: Any
    policy_type, arguments = maskable_policy(arguments) if world.has_action_mask else (MlpPolicy, arguments)
    agent_class: Any = Sb3Agent
    if config.policy == "gru":
        policy_type, agent_class = RecurrentPolicy, RecurrentAgent
    options: dict[str, Any] = {"indicator": indicator, "normalized": config.normalize_observations}
    options["features"] = None if encoder is None else encoder.space
    policy = build_policy(policy_type, world, **options, **arguments).to(device)
    extra = {"indicator": len(world.agents) if indicator else 0, "structure": structure_of(world), "encoder": encoder}
    return load_policy(
        policy, "ppo", state_dict, normalized=config.normalize_observations, agent_class=agent_class, **extra
    )
