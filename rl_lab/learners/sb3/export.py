"""Exports agents as files of Stable-Baselines3. The lab does not read such files, because they are pickles.

`rl-lab export` calls `export`, which builds SB3's own algorithm with the agent's parameters and the state of its
training, and lets SB3 write it. Only the named files are written.
"""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from gymnasium.spaces import Box, Dict
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy, MultiInputPolicy

from rl_lab.adapters.raw_spaces import spaces_outside
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.agent import StateDict
from rl_lab.core.protocols import BatchedEnv
from rl_lab.learners.sb3 import policies
from rl_lab.learners.sb3.agent import Sb3Agent
from rl_lab.learners.sb3.training_state import restore_export_state, restore_normalizer_statistics

_ALGORITHMS: dict[type[Any], type[Any]] = {
    ActorCriticPolicy: PPO,
    MaskableActorCriticPolicy: MaskablePPO,
    DQNPolicy: DQN,
    MultiInputActorCriticPolicy: PPO,
    MultiInputPolicy: DQN,
}


@dataclass(frozen=True)
class TrainingState:
    """The training of an agent, with which SB3 can continue it."""

    config: Any  # the hyperparameters, an agent's `Config`
    arguments: dict[str, Any]  # of SB3's algorithm for these hyperparameters
    state_dict: StateDict  # what `training_state.export_state` or `training_state.save` returned
    budget: int  # environment steps
    seats: tuple[int, ...] | None = None  # the agents of the world that the policy plays; None for all


@dataclass(frozen=True)
class ExportedFiles:
    """The exported files by kind, and lines about what the files lack or what their user must know."""

    files: dict[str, Path]
    notes: list[str] = field(default_factory=list)


def export(agent: Sb3Agent, envs: BatchedEnv, path: Path, training: TrainingState) -> ExportedFiles:
    """Write `path`, a file for SB3's `load`, and beside it the VecNormalize, if there is one.

    The files are "agent", "normalizer" (for `VecNormalize.load`) and "statistics" (its numbers as JSON). `envs` is a
    batch of the agent's world. `load(path, env).learn()` continues with the hyperparameters, schedules, optimizer and
    counters of the run.

    Raises:
        ValueError: the policy is not a class of SB3, or the agent cannot play outside of the lab.
    """
    policy: Any = agent.policy
    algorithm = _ALGORITHMS.get(type(policy))
    if algorithm is None:
        raise ValueError(f"{type(policy).__name__} is not a policy class of Stable-Baselines3")
    if algorithm is DQN and envs.world.has_action_mask:
        raise ValueError(f"{envs.world.name} has illegal actions, and SB3's DQN has no action masks: train agent=ppo")
    config, notes = training.config, _notes(agent, envs, algorithm, training)
    model, complete = _model(agent, envs, algorithm, training)
    if not complete:
        notes.append("optimizer moments and counters were not kept with this agent: learn() begins with new ones")
    normalizer = None
    if any(getattr(config, name, False) for name in ("normalize_observations", "normalize_rewards")):
        normalizer, has_counts = _normalizer(agent, envs, model, training)
        if not has_counts:
            notes.append("the counts of the normaliser were not kept with this agent: its statistics adapt anew")
    with _pickled_by_value(policies):
        model.save(path)
    files = {"agent": path}
    if normalizer is not None:
        files["normalizer"], files["statistics"] = (path.with_suffix(f".normalizer.{end}") for end in ("pkl", "json"))
        normalizer.save(str(files["normalizer"]))
        files["statistics"].write_text(json.dumps(_statistics(normalizer), indent=2) + "\n")
        effect = "observations are standardised" if normalizer.norm_obs else "rewards are scaled"
        notes.append(
            f"{effect}: wrap the environment, env = VecNormalize.load({files['normalizer'].name!r}, venv), to play "
            "(with env.training = env.norm_reward = False) and to learn"
        )
    return ExportedFiles(files, notes)


def _notes(agent: Sb3Agent, envs: BatchedEnv, algorithm: type[Any], training: TrainingState) -> list[str]:
    """Return notes about differences between SB3 and the lab, and about what its user must set."""
    config, world = training.config, envs.world
    notes = ["random generators are not carried: set_random_seed(...) gives new ones"]
    if algorithm is DQN:
        notes.append("the replay buffer is not carried, as in the library's own file: learn() fills a new one")
        unsupported = [name for name in ("double_q", "priority_exponent") if getattr(config, name, 0)]
        notes += [
            f"{name}={getattr(config, name)} is not known to the library: learn() does without" for name in unsupported
        ]
        if training.state_dict.state.get("rows", 1) > 1 and config.compiled:
            notes.append("the library explores in all environments at once, the lab in each by itself")
    if world.is_multi_agent:
        notes.append("agents wait or leave in this world: the lab does not learn from those rows, the library would")
    if agent.indicator:
        notes.append(f"observations end in which of {agent.indicator} agents it is: LabVecEnv(envs, indicator=True)")
    if config.policy == "cnn":
        notes.append(f"its network is stored as code of Python {'.'.join(platform.python_version_tuple()[:2])}")
    return notes


def _model(
    agent: Sb3Agent, envs: BatchedEnv, algorithm: type[Any], training: TrainingState
) -> tuple[BaseAlgorithm, bool]:
    """Return SB3's algorithm with the state of the run's, and whether the saved state was complete."""
    policy: Any = agent.policy
    arguments = dict(training.arguments)
    if algorithm is MaskablePPO:
        for name in ("use_sde", "sde_sample_freq"):  # for continuous actions
            arguments.pop(name)
        arguments["policy_kwargs"] = {k: v for k, v in arguments["policy_kwargs"].items() if k != "log_std_init"}
    policy_name = "MultiInputPolicy" if isinstance(policy.observation_space, Dict) else "MlpPolicy"
    model: Any = algorithm(policy_name, None, device="cpu", _init_setup_model=False, **arguments)
    spaces = spaces_outside(envs, policy.observation_space, policy.action_space, training.seats)
    model.observation_space, model.action_space = spaces
    rows = training.state_dict.state.get("rows") or len(
        training.state_dict.tensors.get("last", {}).get("episode_starts", [0])
    )
    model.n_envs = int(rows)
    # Buffers are not part of the file, so the model is built with buffers of one step to save memory.
    size = "buffer_size" if algorithm is DQN else "n_steps"
    value = getattr(model, size)
    setattr(model, size, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about settings that the run had, too
        model._setup_model()
    setattr(model, size, value)
    if algorithm is DQN:  # with any buffer class set, SB3 assumes that it does not support n_steps
        model.replay_buffer_class, model.replay_buffer_kwargs = None, {}
    model.policy.load_state_dict(policy.state_dict())
    model._total_timesteps = training.budget
    return model, restore_export_state(model, agent.name, training.state_dict)


def _normalizer(agent: Sb3Agent, envs: BatchedEnv, model: Any, training: TrainingState) -> tuple[VecNormalize, bool]:
    """Return a VecNormalize with the statistics of the run's, and whether the saved statistics were complete."""
    config, state_dict = training.config, training.state_dict
    if config.normalize_observations and not isinstance(model.observation_space, Box):
        raise ValueError(
            f"{envs.world.name}: the run normalizes one-hot observations of {model.observation_space}, which "
            "VecNormalize does not support: train without normalize_observations"
        )
    normalizer = VecNormalize(
        LabVecEnv(envs, indicator=agent.indicator > 0),
        norm_obs=config.normalize_observations,
        norm_reward=config.normalize_rewards,
        gamma=config.gamma,
        clip_obs=agent.clip,
    )
    # SB3 compares these spaces with those of the environment when the file is loaded.
    normalizer.observation_space, normalizer.action_space = model.observation_space, model.action_space
    arrays, counts = state_dict.tensors.get("normalizer", {}), state_dict.state.get("normalizer_counts")
    if counts is not None and "return_mean" in arrays:
        restore_normalizer_statistics(normalizer, arrays, counts)
        return normalizer, True
    if agent.normalizer is not None:
        statistics: Any = normalizer.obs_rms
        statistics.mean, statistics.var = agent.normalizer["mean"], agent.normalizer["var"]
    return normalizer, False


def _statistics(normalizer: Any) -> dict[str, Any]:
    """Return the settings of a VecNormalize, which are its arguments, and its running statistics, for JSON."""
    settings = "norm_obs norm_reward clip_obs clip_reward gamma epsilon".split()
    statistics = (["obs_rms"] if normalizer.norm_obs else []) + ["ret_rms"]
    return {
        "settings": {name: getattr(normalizer, name) for name in settings},
        **{
            name: {
                part: np.asarray(getattr(getattr(normalizer, name), part)).tolist() for part in "mean var count".split()
            }
            for name in statistics
        },
    }


@contextmanager
def _pickled_by_value(module: Any) -> Iterator[None]:
    """Pickle the classes of a module by value, so that a file with such classes is loaded without the module."""
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)
