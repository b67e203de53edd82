"""Agent `rllib_ppo`: RLlib's PPO, its learner and its loss, over the lab's worlds.

This file has the hyperparameters and their checks; the learner is in `rl_lab.learners.rllib`. Training needs the extra
`rllib`, a trained agent does not.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms"; Ray 2.60, `ray.rllib.algorithms.ppo`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rl_lab.core.agent import Agent, Learner, StateDict, check_bounds, hyperparameter
from rl_lab.core.protocols import EnvSpec

if TYPE_CHECKING:
    from rl_lab.learners.pretraining.settings import BackboneSettings

TAKES_BACKBONE = True


@dataclass(frozen=True)
class Config:
    """The hyperparameters; names and defaults are RLlib's, those of the network the lab's."""

    lr: float = hyperparameter(5e-5, "learning rate of Adam", low=0)
    train_batch_size_per_learner: int = hyperparameter(4000, "rollout of all worlds together", "rows", low=2)
    minibatch_size: int = hyperparameter(128, "minibatch", "rows", low=1)
    num_epochs: int = hyperparameter(30, "passes over a train batch", low=1)
    shuffle_batch_per_epoch: bool = hyperparameter(True, "shuffle the rows after each pass")
    gamma: float = hyperparameter(0.99, "discount", low=0, high=1)
    lambda_: float = hyperparameter(1.0, "lambda of generalised advantage estimation", low=0, high=1)
    clip_param: float = hyperparameter(0.3, "clipping range of the probability ratio around 1", low=0)
    vf_clip_param: float = hyperparameter(10.0, "the largest value loss of a row; beyond it has no gradient", low=0)
    vf_loss_coeff: float = hyperparameter(1.0, "weight of the value loss", low=0)
    entropy_coeff: float = hyperparameter(0.0, "weight of the entropy bonus", low=0)
    use_kl_loss: bool = hyperparameter(True, "add the divergence from the policy that sampled to the loss")
    kl_coeff: float = hyperparameter(0.2, "its initial weight, which follows kl_target", low=0)
    kl_target: float = hyperparameter(0.01, "divergence of an update that its weight is adapted to", low=0)
    grad_clip: float | None = hyperparameter(None, "gradients are clipped to this norm", low=0)
    policy: str = hyperparameter("mlp", "mlp, or cnn for boards and images")
    net_arch: list[int] = hyperparameter([64, 64], "hidden layers of policy and value networks", "units")
    activation: str = hyperparameter("tanh", "tanh, relu, elu or silu")
    log_std_init: float = hyperparameter(0.0, "initial log standard deviation of continuous actions")
    ortho_init: bool = hyperparameter(True, "orthogonal initial weights")
    compiled: bool = hyperparameter(True, "act and update in compiled code where it knows the network, else by torch")
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

    return actor_critic("rllib_ppo", config, world, backbone)


def library_arguments(config: Config, world: EnvSpec) -> dict[str, Any]:
    """Return the arguments of `stable_baselines3.PPO` that are nearest to this configuration."""
    return {
        "learning_rate": config.lr,
        "n_steps": config.train_batch_size_per_learner,
        "batch_size": config.minibatch_size,
        "n_epochs": config.num_epochs,
        "gamma": config.gamma,
        "gae_lambda": config.lambda_,
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

    `envs` is a `BatchedEnv`, or the `DistributedEnvs` of env runners. Where several policies share a batch, each learns
    from the rows of its own agents in the train batch.

    Raises:
        UsageError: Ray is not installed.
        ValueError: hyperparameters do not go together, or not with these environments.
    """
    from rl_lab.learners.rllib.distributed_envs import DistributedEnvs
    from rl_lab.learners.rllib.process_settings import check_processes
    from rl_lab.learners.rllib.requirement import require

    check_bounds(config)
    require()
    world, is_distributed = envs.world, isinstance(envs, DistributedEnvs)
    own_rows = envs.rows if is_distributed else envs.rewards.size  # of this policy's agents in a step
    rows = getattr(envs, "batch_rows", own_rows)  # of all policies' agents, where several share the batch
    size = config.train_batch_size_per_learner
    check_processes(config, divides_fragments=True)
    if config.learners:
        _check_batch(config, rows)
    elif size % rows:
        nearest = max(size // rows, 1) * rows
        raise ValueError(f"train_batch_size_per_learner={size} is no multiple of {rows} rows a step: {nearest} is")
    own_size = size * own_rows // rows
    if config.minibatch_size > own_size:
        raise ValueError(f"minibatch_size={config.minibatch_size} is larger than a train batch of {own_size} rows")
    config = replace(config, train_batch_size_per_learner=own_size)
    policy_type, arguments = policy_class(config, world, backbone)
    from rl_lab.learners.rllib.policy_builder import policy_builder
    from rl_lab.learners.rllib.ppo import RllibPPO

    processes = config.env_runners + config.learners
    build = policy_builder(policy_type, world, arguments, backbone, processes=processes)
    if is_distributed:
        from rl_lab.learners.rllib.distributed import DistributedPPO

        return DistributedPPO(config, envs, build, seed=seed, device=device)
    return RllibPPO(config, envs, build, seed=seed, device=device)


def _check_batch(config: Config, rows: int) -> None:
    """Raise ValueError unless the train batches of all learners are whole steps of the environments."""
    learners, size = config.learners, config.train_batch_size_per_learner
    if size * learners % rows:
        nearest = max(size * learners // rows, 1) * rows // learners
        reason = f"{learners} learners make batches of {size * learners} rows, no multiple of {rows} rows a step"
        raise ValueError(f"train_batch_size_per_learner={size}: {reason}: {nearest} does")


def load(
    config: Config, world: EnvSpec, state_dict: StateDict, *, device: str, backbone: BackboneSettings | None = None
) -> Agent:
    """Return a trained agent; Ray is not needed."""
    from rl_lab.learners.rllib import policies

    return policies.load("rllib_ppo", policy_class(config, world, backbone), world, state_dict, device, backbone)
