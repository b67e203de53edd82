"""Replaces the algorithm and buffer classes that an agent asks for by those that its environments need.

`Sb3Learner` calls both functions before it makes the model. They return classes with their arguments, and change only
the dictionary of arguments that they get.
"""

from __future__ import annotations

import inspect
from typing import Any

from gymnasium.spaces import Dict
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.learners.sb3.agent import maskable_policy
from rl_lab.learners.sb3.dqn import CompiledDQN, CompiledMaskedDQN
from rl_lab.learners.sb3.masked_dqn import MaskedDQN
from rl_lab.learners.sb3.masked_replay_buffer import CompleteTransitionDictReplayBuffer, CompleteTransitionReplayBuffer
from rl_lab.learners.sb3.masked_rollout_buffers import (
    CompleteTransitionDictRolloutBuffer,
    CompleteTransitionMaskableDictRolloutBuffer,
    CompleteTransitionMaskableRolloutBuffer,
    CompleteTransitionRolloutBuffer,
)
from rl_lab.learners.sb3.ppo import CompiledMaskablePPO, CompiledPPO
from rl_lab.learners.sb3.recurrent_buffers import MaskableSequenceRolloutBuffer, SequenceRolloutBuffer


def with_sb3_algorithm(
    algorithm: type[BaseAlgorithm], arguments: dict[str, Any]
) -> tuple[type[BaseAlgorithm], dict[str, Any]]:
    """Return SB3's algorithm in place of a compiled one, and the arguments that it accepts.

    Raises ValueError for an option of the compiled learner alone, other than its default.
    """
    for compiled, sb3 in ((CompiledPPO, PPO), (CompiledDQN, DQN)):
        if issubclass(algorithm, compiled):
            sb3_parameters = inspect.signature(sb3).parameters
            for key in [key for key in arguments if key not in sb3_parameters]:
                if arguments.pop(key) != inspect.signature(compiled).parameters[key].default:
                    raise ValueError(f"{key} needs the compiled learner, which does not support such observations")
            return sb3, arguments
    return algorithm, arguments


def with_masked_rows(
    algorithm: type[BaseAlgorithm], vec_env: LabVecEnv, arguments: dict[str, Any]
) -> tuple[type[BaseAlgorithm], dict[str, Any]]:
    """Return the algorithm and arguments for rows with action masks, and for agents that do not act in each step.

    Raises ValueError for `use_sde`, which masked actions cannot have.
    """
    is_dict = isinstance(vec_env.observation_space, Dict)
    if not issubclass(algorithm, OnPolicyAlgorithm):
        algorithm = CompiledMaskedDQN if issubclass(algorithm, CompiledDQN) else MaskedDQN
        replay = {"vec_env": vec_env, "n_steps": arguments.pop("n_steps", 1), "gamma": arguments["gamma"]}
        replay_class = CompleteTransitionDictReplayBuffer if is_dict else CompleteTransitionReplayBuffer
        return algorithm, arguments | {"replay_buffer_class": replay_class, "replay_buffer_kwargs": replay}
    if not vec_env.envs.world.has_action_mask:
        rollout_class: type[Any] = CompleteTransitionDictRolloutBuffer if is_dict else CompleteTransitionRolloutBuffer
        return algorithm, arguments | {
            "rollout_buffer_class": rollout_class,
            "rollout_buffer_kwargs": {"vec_env": vec_env},
        }
    if arguments.pop("use_sde"):
        raise ValueError("use_sde is for continuous actions")
    del arguments["sde_sample_freq"]
    _, arguments["policy_kwargs"] = maskable_policy(arguments["policy_kwargs"])
    rollout_class = CompleteTransitionMaskableDictRolloutBuffer if is_dict else CompleteTransitionMaskableRolloutBuffer
    arguments |= {"rollout_buffer_class": rollout_class, "rollout_buffer_kwargs": {"vec_env": vec_env}}
    return CompiledMaskablePPO if issubclass(algorithm, CompiledPPO) else MaskablePPO, arguments


def with_sequence_buffer(vec_env: LabVecEnv, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `RecurrentPPO` with the rollout buffer that these environments need."""
    has_masks = vec_env.envs.world.has_action_mask
    buffer = {"vec_env": vec_env, "recurrent_size": arguments["policy_kwargs"]["recurrent_size"]}
    return arguments | {
        "rollout_buffer_class": MaskableSequenceRolloutBuffer if has_masks else SequenceRolloutBuffer,
        "rollout_buffer_kwargs": buffer,
    }
