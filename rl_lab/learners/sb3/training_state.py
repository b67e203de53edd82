"""Saves and restores the whole state of a Stable-Baselines3 algorithm between two iterations, as tensors and JSON.

`Sb3Learner.save` and `restore` call it, and the export of agents. `save` only reads. `restore` checks everything that
comes from a file first (`state_validation`), then writes the model, its buffers and the global random generators.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_lab.core.agent import StateDict
from rl_lab.core.world import Array
from rl_lab.learners.sb3.buffer_state import (
    observe_new_episodes,
    pending_arrays,
    replay_arrays_and_position,
    restore_pending,
    restore_replay,
)
from rl_lab.learners.sb3.dqn import CompiledDQN, CompiledMaskedDQN
from rl_lab.learners.sb3.generator_state import generator_arrays, generator_values, restore_generators
from rl_lab.learners.sb3.recurrent_ppo import RecurrentPPO
from rl_lab.learners.sb3.state_validation import (
    arrays_by_name,
    check_bit_generator_state,
    check_counters,
    check_generators,
    check_last_observations,
    check_normalizer,
    check_parameters,
    validated_moments,
    validated_optimizer_groups,
)


def save(algorithm: BaseAlgorithm, *, compiled: bool) -> StateDict:
    """Return an algorithm's whole state between two iterations: its tensors by group, and its state for JSON.

    The groups of tensors are:
        policy: the parameters.
        optimizer: Adam's moments.
        generators: the states of the global random generators.
        last: the observations and episode starts with which the next iteration begins, and a recurrent policy's states.
        pending: the pending transitions, where agents need not act in each step.
        normalizer: the statistics of a VecNormalize, if there is one.
        replay: the replay buffer of an off-policy algorithm, with the priorities of prioritised replay.

    The state has the counters, the optimizer's settings and the rest of the generators' states. With `compiled`, it
    includes the key and the counter of the random numbers of compiled code.
    """
    model: Any = algorithm
    moments, groups = _optimizer_arrays(model.policy.optimizer)
    tensors = {
        "policy": as_arrays(model.policy.state_dict()),
        "optimizer": moments,
        "generators": generator_arrays(),
        "last": {
            **arrays_by_name("observations", model._last_obs),
            "episode_starts": np.asarray(model._last_episode_starts),
        },
    }
    if isinstance(model, RecurrentPPO):
        tensors["last"]["recurrent_states"] = model.recurrent_states.copy()
    if (pending := pending_arrays(model)) is not None:
        tensors["pending"] = pending
    state: dict[str, Any] = {
        **_counters(model),
        "optimizer_groups": groups,
        **generator_values(),
        "action_space": model.action_space.np_random.bit_generator.state,
    }
    if compiled:
        state["key"], state["rng_counter"] = int(model.rng_key), int(model.rng_counter)
    if (normalizer := model.get_vec_normalize_env()) is not None:
        tensors["normalizer"] = _normalizer_arrays(normalizer)
        state["normalizer_counts"] = _normalizer_counts(normalizer)
        if model._last_original_obs is not None:
            tensors["last"] |= arrays_by_name("original_observations", model._last_original_obs)
    if not isinstance(model, OnPolicyAlgorithm):
        tensors["replay"], state["replay"] = replay_arrays_and_position(model)
        if isinstance(model, CompiledDQN | CompiledMaskedDQN):
            tensors["replay"] |= model.priorities()
        state["calls"] = getattr(model, "_n_calls", 0)
        state["exploration_rate"] = getattr(model, "exploration_rate", 0.0)
    return StateDict(tensors, state)


def export_state(algorithm: BaseAlgorithm) -> StateDict:
    """Return the part of `save` that SB3's own files contain beside the parameters.

    The tensors are the optimizer's moments and, where there is a VecNormalize, its statistics; the state has the
    counters.
    """
    model: Any = algorithm
    moments, groups = _optimizer_arrays(model.policy.optimizer)
    tensors, state = {"optimizer": moments}, {"optimizer_groups": groups, "rows": model.n_envs, **_counters(model)}
    if (normalizer := model.get_vec_normalize_env()) is not None:
        tensors["normalizer"] = _normalizer_arrays(normalizer)
        state["normalizer_counts"] = _normalizer_counts(normalizer)
    if not isinstance(model, OnPolicyAlgorithm):
        state |= {"calls": model._n_calls, "exploration_rate": model.exploration_rate}
    return StateDict(tensors, state)


def restore_export_state(algorithm: BaseAlgorithm, name: str, state_dict: StateDict) -> bool:
    """Restore what `export_state` or `save` returned into an algorithm of SB3, but for a VecNormalize.

    Returns False, and changes nothing, if it has no optimizer state or lacks a counter.

    Raises:
        ValueError: The state is of another algorithm or size. The algorithm may be restored in part.
    """
    model: Any = algorithm
    state = state_dict.state
    counters = {"steps", "updates", "episodes", "progress", "episode_infos"}
    if "optimizer" not in state_dict.tensors or not {"optimizer_groups", *counters} <= set(state):
        return False
    try:
        _restore_optimizer(model.policy.optimizer, state_dict.tensors["optimizer"], state["optimizer_groups"])
        model.num_timesteps, model._n_updates = int(state["steps"]), int(state["updates"])
        model._episode_num, model._current_progress_remaining = int(state["episodes"]), float(state["progress"])
        infos = [{"r": float(r), "l": int(length)} for r, length in state["episode_infos"]]
        model.ep_info_buffer = deque(infos, maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(maxlen=model._stats_window_size)
        if not isinstance(model, OnPolicyAlgorithm):
            model._n_calls, model.exploration_rate = int(state["calls"]), float(state["exploration_rate"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the checkpoint does not fit this {name} learner: {error}") from None
    return True


def restore_normalizer_statistics(normalizer: Any, arrays: dict[str, Array], counts: list[float]) -> None:
    """Restore the statistics that `export_state` or `save` returned into a VecNormalize."""
    _restore_normalizer(normalizer, {"returns": normalizer.returns, **arrays}, counts)


def restore(algorithm: BaseAlgorithm, name: str, state_dict: StateDict, *, compiled: bool) -> None:
    """Restore what `save` returned; also set the global random generators of torch (CUDA included), numpy and random.

    Raises:
        ValueError: The state is of another algorithm or size, or damaged. The algorithm may be restored in part.
    """
    model: Any = algorithm
    tensors, state = state_dict.tensors, state_dict.state
    try:
        _check(model, tensors, state)
        model.policy.load_state_dict(as_tensors(tensors["policy"]))
        _restore_optimizer(model.policy.optimizer, tensors["optimizer"], state["optimizer_groups"])
        model._last_obs = _saved_observations("observations", model._last_obs, tensors["last"])
        model._last_episode_starts = tensors["last"]["episode_starts"]
        if isinstance(model, RecurrentPPO):
            model.recurrent_states = np.array(tensors["last"]["recurrent_states"])
        model.num_timesteps, model._n_updates = state["steps"], state["updates"]
        model._episode_num = state["episodes"]
        model._current_progress_remaining = state["progress"]
        infos = [{"r": float(r), "l": length} for r, length in state["episode_infos"]]
        model.ep_info_buffer = deque(infos, maxlen=model._stats_window_size)
        if (normalizer := model.get_vec_normalize_env()) is not None:
            _restore_normalizer(normalizer, tensors["normalizer"], state["normalizer_counts"])
            if model._last_original_obs is not None:
                model._last_original_obs = _saved_observations(
                    "original_observations", model._last_original_obs, tensors["last"]
                )
        if not isinstance(model, OnPolicyAlgorithm):
            restore_replay(model, tensors["replay"], state["replay"])
            if isinstance(model, CompiledDQN | CompiledMaskedDQN):
                model.restore_priorities(tensors["replay"])
            model._n_calls, model.exploration_rate = state["calls"], state["exploration_rate"]
        restore_pending(model, tensors.get("pending", {}))
        observe_new_episodes(model)
        if compiled:
            model.rng_key, model.rng_counter = np.uint64(state["key"] & 0xFFFFFFFF), state["rng_counter"] & (2**40 - 1)
        model.action_space.np_random.bit_generator.state = state["action_space"]
        restore_generators(tensors["generators"], state)
    except Exception as error:  # the libraries raise exceptions of many classes
        raise ValueError(f"the checkpoint does not fit this {name} learner: {_reason(error)}") from None


def _check(model: Any, tensors: dict[str, Any], state: dict[str, Any]) -> None:
    """Raise ValueError or KeyError unless the state has the types, shapes and ranges of this algorithm's."""
    check_counters(state, model._stats_window_size)
    check_parameters(model.policy, tensors["policy"])
    check_last_observations(tensors["last"], model)
    check_generators(tensors["generators"], state)
    check_bit_generator_state(state["action_space"], model.action_space.np_random.bit_generator.state)
    if (normalizer := model.get_vec_normalize_env()) is not None:
        check_normalizer(normalizer, tensors["normalizer"], state["normalizer_counts"])


def _reason(error: Exception) -> str:
    """Return the message of an error; that of a KeyError says which name is missing."""
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)


def _saved_observations(name: str, like: Any, arrays: dict[str, Array]) -> Any:
    """Return the observations that `arrays_by_name` has split into arrays: a dict where `like` is one."""
    return {key: arrays[f"{name}/{key}"] for key in like} if isinstance(like, dict) else arrays[name]


def as_arrays(state: dict[str, torch.Tensor]) -> dict[str, Array]:
    """Return copies of tensors, which may be on any device, as arrays of the same names.

    A tensor that has several names becomes one array under all of them, so that a message to another process has it
    once: Stable-Baselines3's policies have their shared feature extractor under three names.
    """
    copies: dict[Any, Array] = {}
    arrays = {}
    for key, value in state.items():
        place = value.data_ptr(), value.dtype, value.shape, value.stride()
        if place not in copies:
            copies[place] = value.detach().cpu().numpy().copy()
        arrays[key] = copies[place]
    return arrays


def as_tensors(arrays: dict[str, Array]) -> dict[str, torch.Tensor]:
    """Return copies of arrays as tensors of the same names."""
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


def _optimizer_arrays(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Array], list[dict[str, Any]]]:
    """Return Adam's moments by the parameter's index and their name, as "0.exp_avg", and the optimizer's settings."""
    state = optimizer.state_dict()
    flat = {f"{i}.{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
    return as_arrays(flat), state["param_groups"]


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, arrays: dict[str, Array], groups: list[dict[str, Any]]
) -> None:
    """Restore what `_optimizer_arrays` returned. Raises ValueError where it does not fit this optimizer."""
    state, settings = validated_moments(optimizer, arrays), validated_optimizer_groups(optimizer, groups)
    optimizer.load_state_dict({"state": state, "param_groups": settings})


def _counters(model: Any) -> dict[str, Any]:
    """Return the counters of steps, updates and episodes, and the returns and lengths of the last episodes."""
    return {
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "episodes": model._episode_num,
        "progress": model._current_progress_remaining,
        "episode_infos": [[e["r"], e["l"]] for e in model.ep_info_buffer or ()],
    }


def _normalizer_counts(normalizer: Any) -> list[float]:
    """Return the counts of the statistics of observations, 0 if they are not normalised, and of returns."""
    return [float(normalizer.obs_rms.count) if normalizer.norm_obs else 0.0, float(normalizer.ret_rms.count)]


def _normalizer_arrays(normalizer: Any) -> dict[str, Array]:
    """Return the means and variances of a VecNormalize, and the discounted returns of the running episodes."""
    arrays = {"return_mean": normalizer.ret_rms.mean, "return_var": normalizer.ret_rms.var}
    arrays["returns"] = normalizer.returns
    if normalizer.norm_obs:
        arrays |= {"observation_mean": normalizer.obs_rms.mean, "observation_var": normalizer.obs_rms.var}
    return {key: np.array(value) for key, value in arrays.items()}


def _restore_normalizer(normalizer: Any, arrays: dict[str, Array], counts: list[float]) -> None:
    """Restore what `_normalizer_arrays` and `_normalizer_counts` returned."""
    normalizer.ret_rms.mean, normalizer.ret_rms.var = arrays["return_mean"], arrays["return_var"]
    normalizer.returns, normalizer.ret_rms.count = arrays["returns"], counts[1]
    if normalizer.norm_obs:
        normalizer.obs_rms.mean, normalizer.obs_rms.var = (
            arrays["observation_mean"],
            arrays["observation_var"],
        )
        normalizer.obs_rms.count = counts[0]
