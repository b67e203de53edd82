"""Agent `rllib_dqn`: RLlib's DQN, deep Q-learning with RLlib's learner and loss over the lab's worlds.

This file has the hyperparameters and their checks; the learner is in `rl_lab.learners.rllib`. Training needs the extra
`rllib`, a trained agent does not.

Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; Ray 2.60,
`ray.rllib.algorithms.dqn`.
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
    train_batch_size_per_learner: int = hyperparameter(32, "minibatch", "transitions", low=1)
    capacity: int = hyperparameter(50_000, "replay buffer", "transitions", low=1)
    alpha: float = hyperparameter(0.6, "exponent of the priorities of replay; 0: sample uniformly", low=0, high=1)
    beta: float = hyperparameter(0.4, "exponent of its importance weights", low=0, high=1)
    num_steps_sampled_before_learning_starts: int = hyperparameter(
        1000, "steps before the first update", "steps", low=0
    )
    gamma: float = hyperparameter(0.99, "discount", low=0, high=1)
    n_step: int = hyperparameter(1, "rewards summed before the bootstrapped value", "steps", low=1)
    double_q: bool = hyperparameter(True, "the network chooses the next action, the target network values it")
    td_error_loss_fn: str = hyperparameter("huber", "huber or mse")
    grad_clip: float | None = hyperparameter(40.0, "gradients are clipped to this norm", low=0)
    target_network_update_freq: int = hyperparameter(500, "time between updates of the target network", "steps", low=1)
    tau: float = hyperparameter(1.0, "share of the network copied into the target network", low=0, high=1)
    epsilon: list[Any] = hyperparameter(
        [[0, 1.0], [10_000, 0.05]], "probability of a random action at numbers of steps, linear between them"
    )
    rollout_fragment_length: int = hyperparameter(0, "steps of each world between updates; 0: n_step", "steps", low=0)
    training_intensity: float | None = hyperparameter(
        None, "transitions replayed for each step; without it, one minibatch for each rollout", low=0
    )
    min_sample_timesteps_per_iteration: int = hyperparameter(1000, "steps of an iteration", "steps", low=1)
    policy: str = hyperparameter("mlp", "mlp, or cnn for boards and images")
    net_arch: list[int] = hyperparameter([64, 64], "hidden layers of the Q-network", "units")
    activation: str = hyperparameter("relu", "tanh, relu, elu or silu")
    env_runners: int = hyperparameter(0, "processes that sample, which share the worlds; 0: this one", low=0)
    cpus_per_runner: float = hyperparameter(1.0, "CPUs of each of them", low=0)
    gpus_per_env_runner: float = hyperparameter(0.0, "GPUs of each of them; with 0.5, two share one", low=0, high=1)
    sample_timeout_s: float = hyperparameter(120.0, "time limit of one of their samples", "seconds", low=1)
    learners: int = hyperparameter(0, "processes that learn, each from its own minibatch; 0: this one", low=0)
    gpus_per_learner: int = hyperparameter(0, "GPUs of each of them", low=0, high=1)


def policy_class(
    config: Config, world: EnvSpec, backbone: BackboneSettings | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the class of the policy and its arguments. Raises ValueError for spaces that it cannot take."""
    from stable_baselines3.dqn import MlpPolicy

    from rl_lab.adapters.structured import structure_of
    from rl_lab.learners.rllib.policies import network_arguments
    from rl_lab.learners.sb3.agent import require_discrete_actions

    require_discrete_actions("rllib_dqn", world)
    if (structure := structure_of(world)) is not None:
        raise ValueError(f"rllib_dqn: {world.name} observes a {structure.kind}: use agent=dqn")
    return MlpPolicy, network_arguments(config, world, backbone)


def library_arguments(config: Config, world: EnvSpec) -> dict[str, Any]:
    """Return the arguments of `stable_baselines3.DQN` that are nearest to this configuration."""
    return {
        "learning_rate": config.lr,
        "buffer_size": config.capacity,
        "learning_starts": config.num_steps_sampled_before_learning_starts,
        "batch_size": config.train_batch_size_per_learner,
        "tau": config.tau,
        "gamma": config.gamma,
        "n_steps": config.n_step,
        "train_freq": config.rollout_fragment_length or config.n_step,
        "target_update_interval": config.target_network_update_freq,
        "exploration_initial_eps": config.epsilon[0][1],
        "exploration_final_eps": config.epsilon[-1][1],
        "max_grad_norm": math.inf if config.grad_clip is None else config.grad_clip,
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
    check_processes(config, divides_fragments=False)
    policy_type, arguments = policy_class(config, envs.world, backbone)
    _check_loss_and_epsilon(config)
    if hasattr(envs, "batch_rows"):
        raise ValueError("rllib_dqn trains one policy; several need agent=rllib_ppo, rllib_appo, ppo or dqn")
    from rl_lab.learners.rllib.distributed_envs import DistributedEnvs
    from rl_lab.learners.rllib.dqn import DistributedDQN, RllibDQN
    from rl_lab.learners.rllib.policy_builder import policy_builder

    processes = config.env_runners + config.learners
    build = policy_builder(policy_type, envs.world, arguments, backbone, processes=processes)
    learner_class = DistributedDQN if isinstance(envs, DistributedEnvs) else RllibDQN
    return learner_class(config, envs, build, budget=budget, seed=seed, device=device)


def _check_loss_and_epsilon(config: Config) -> None:
    """Raise ValueError for a loss function that RLlib does not have, or an epsilon that is no schedule."""
    if config.td_error_loss_fn not in ("huber", "mse"):
        raise ValueError(f"td_error_loss_fn={config.td_error_loss_fn}: expected huber or mse")
    points = [point for point in config.epsilon if isinstance(point, list) and len(point) == 2]
    are_numbers = all(isinstance(each, int | float) for point in points for each in point)
    steps = [point[0] for point in points]
    is_schedule = are_numbers and len(points) == len(config.epsilon) >= 2 and sorted({0, *steps}) == steps
    if not is_schedule or not all(0 <= value <= 1 for _, value in points):
        raise ValueError(f"epsilon={config.epsilon}: expected [[0, P], [STEP, P], ...] with growing steps, P of 0 to 1")


def load(
    config: Config, world: EnvSpec, state_dict: StateDict, *, device: str, backbone: BackboneSettings | None = None
) -> Agent:
    """Return a trained agent; Ray is not needed."""
    from rl_lab.learners.rllib import policies

    return policies.load("rllib_dqn", policy_class(config, world, backbone), world, state_dict, device, backbone)
