"""Agent `rllib_appo`: RLlib's APPO, asynchronous PPO with V-trace, trained by RLlib's learner over the lab's worlds.

This file has the hyperparameters and their checks; the learner is in `rl_lab.learners.rllib`. Training needs the extra
`rllib`, a trained agent does not.

Source: Luo et al. 2020, "IMPACT: importance weighted asynchronous architectures with clipped target networks"; Espeholt
et al. 2018, "IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures"; Ray 2.60,
`ray.rllib.algorithms.appo`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rl_lab.core.agent import Agent, Learner, StateDict, check_bounds, hyperparameter
from rl_lab.core.protocols import EnvSpec

if TYPE_CHECKING:
    from rl_lab.learners.pretraining.settings import BackboneSettings

TAKES_BACKBONE = True


@dataclass(frozen=True)
class Config:
    """The hyperparameters; names and defaults are RLlib's, those of the network the lab's."""

    lr: float = hyperparameter(5e-4, "learning rate of Adam", low=0)
    rollout_fragment_length: int = hyperparameter(50, "steps of each world in a train batch", "steps", low=1)
    circular_buffer_iterations_per_batch: int = hyperparameter(2, "updates from a train batch", low=1)
    circular_buffer_num_batches: int = hyperparameter(8, "a factor of the target network's period", low=1)
    target_network_update_freq: int = hyperparameter(
        2, "time between updates of the target network, in circular buffers of train batches", low=1
    )
    tau: float = hyperparameter(1.0, "share of the network copied into the target network", low=0, high=1)
    gamma: float = hyperparameter(0.99, "discount", low=0, high=1)
    vtrace_clip_rho_threshold: float = hyperparameter(1.0, "the largest importance weight of V-trace's errors", low=0)
    vtrace_clip_pg_rho_threshold: float = hyperparameter(1.0, "the largest one of the policy's gradient", low=0)
    clip_param: float = hyperparameter(0.4, "clipping range of the probability ratio around 1", low=0)
    vf_loss_coeff: float = hyperparameter(0.5, "weight of the value loss", low=0)
    entropy_coeff: float = hyperparameter(0.01, "weight of the entropy bonus", low=0)
    use_kl_loss: bool = hyperparameter(False, "add the divergence from the target network's policy to the loss")
    kl_coeff: float = hyperparameter(1.0, "its initial weight, which follows kl_target", low=0)
    kl_target: float = hyperparameter(0.01, "divergence of an update that its weight is adapted to", low=0)
    grad_clip: float | None = hyperparameter(40.0, "gradients are clipped to this norm", low=0)
    policy: str = hyperparameter("mlp", "mlp, or cnn for boards and images")
    net_arch: list[int] = hyperparameter([64, 64], "hidden layers of policy and value networks", "units")
    activation: str = hyperparameter("tanh", "tanh, relu, elu or silu")
    log_std_init: float = hyperparameter(0.0, "initial log standard deviation of continuous actions")
    ortho_init: bool = hyperparameter(True, "orthogonal initial weights")
    compiled: bool = hyperparameter(True, "act in compiled code where it knows the network, else by torch")
    env_runners: int = hyperparameter(0, "processes that sample, which share the worlds; 0: this one", low=0)
    cpus_per_runner: float = hyperparameter(1.0, "CPUs of each of them", low=0)
    gpus_per_env_runner: float = hyperparameter(0.0, "GPUs of each of them; with 0.5, two share one", low=0, high=1)
    sample_timeout_s: float = hyperparameter(120.0, "time limit of one of their samples", "seconds", low=1)
    learners: int = hyperparameter(0, "processes that learn, each from its own train batch; 0: this one", low=0)
    gpus_per_learner: int = hyperparameter(0, "GPUs of each of them", low=0, high=1)


def policy_class(
    config: Config, world: EnvSpec, backbone: BackboneSettings | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the class of the policy and its arguments. Raises ValueError for observations that it cannot take."""
    from rl_lab.learners.rllib.policies import actor_critic

    return actor_critic("rllib_appo", config, world, backbone)


def library_arguments(config: Config, world: EnvSpec) -> dict[str, Any]:
    """Return the arguments of `stable_baselines3.PPO`, the nearest algorithm, for this configuration."""
    return {
        "learning_rate": config.lr,
        "n_steps": config.rollout_fragment_length,
        "batch_size": config.rollout_fragment_length,
        "n_epochs": config.circular_buffer_iterations_per_batch,
        "gamma": config.gamma,
        "clip_range": config.clip_param,
        "ent_coef": config.entropy_coeff,
        "vf_coef": config.vf_loss_coeff,
        "max_grad_norm": math.inf if config.grad_clip is None else config.grad_clip,
        "use_sde": False,
        "sde_sample_freq": -1,
        "policy_kwargs": policy_class(config, world)[1],
    }


def learner(
    config: Config,
    envs: Any,
    *,
    budget: int,
    seed: int,
    device: str,
    backbone: BackboneSettings | None = None,
) -> Learner:
    """Return a new learner.

    `envs` is a `BatchedEnv`, or the `DistributedEnvs` of env runners.

    Raises:
        UsageError: Ray is not installed.
        ValueError: hyperparameters do not go together, or not with these environments.
    """
    from rl_lab.learners.rllib.process_settings import check_processes
    from rl_lab.learners.rllib.requirement import require

    check_bounds(config)
    require()
    check_processes(config, divides_fragments=True)
    policy_type, arguments = policy_class(config, envs.world, backbone)
    from rl_lab.learners.rllib.appo import DistributedAPPO, RllibAPPO
    from rl_lab.learners.rllib.distributed_envs import DistributedEnvs
    from rl_lab.learners.rllib.policy_builder import policy_builder

    processes = config.env_runners + config.learners
    build = policy_builder(policy_type, envs.world, arguments, backbone, processes=processes)
    learner_class = DistributedAPPO if isinstance(envs, DistributedEnvs) else RllibAPPO
    return learner_class(config, envs, build, seed=seed, device=device)


def load(
    config: Config, world: EnvSpec, state_dict: StateDict, *, device: str, backbone: BackboneSettings | None = None
) -> Agent:
    """Return a trained agent; Ray is not needed."""
    from rl_lab.learners.rllib import policies

    return policies.load("rllib_appo", policy_class(config, world, backbone), world, state_dict, device, backbone)
