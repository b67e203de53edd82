"""The whole state of a Stable-Baselines3 algorithm between two iterations, as tensors and JSON, and back."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from ..agent import Saved
from ..world import Array
from .sb3_fast_dqn import FastDQN, FastRowDQN
from .sb3_rows import ActingReplay

_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def save(algorithm: BaseAlgorithm, *, compiled: bool) -> Saved:
    """Return an algorithm's whole state between two iterations; `compiled` says whether its generator is the lab's."""
    model: Any = algorithm
    moments, groups = _optimizer_arrays(model.policy.optimizer)
    numpy_state: Any = np.random.get_state(legacy=False)
    tensors = {
        "policy": as_arrays(model.policy.state_dict()),
        "optimizer": moments,
        "generators": {
            "torch": torch.get_rng_state().numpy(),
            "numpy": numpy_state["state"]["key"],
        },
        "last": {
            "observations": np.asarray(model._last_obs),
            "episode_starts": np.asarray(model._last_episode_starts),
        },
    }
    if torch.cuda.is_available():
        tensors["generators"]["cuda"] = torch.cuda.get_rng_state().cpu().numpy()
    state: dict[str, Any] = {
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "episodes": model._episode_num,
        "progress": model._current_progress_remaining,
        "optimizer_groups": groups,
        "episode_infos": [[e["r"], e["l"]] for e in model.ep_info_buffer or ()],
        "numpy": {
            "pos": numpy_state["state"]["pos"],
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        },
        "python": _python_state(),
        "action_space": model.action_space.np_random.bit_generator.state,
    }
    if compiled:
        state["key"], state["drawn"] = int(model.key), int(model.drawn)
    if (normalizer := model.get_vec_normalize_env()) is not None:
        tensors["normalizer"] = _normalizer_arrays(normalizer)
        state["normalizer_counts"] = [float(normalizer.obs_rms.count) if normalizer.norm_obs else 0.0]
        state["normalizer_counts"].append(float(normalizer.ret_rms.count))
        if model._last_original_obs is not None:
            tensors["last"]["original_observations"] = np.asarray(model._last_original_obs)
    if not isinstance(model, OnPolicyAlgorithm):
        tensors["replay"], state["replay"] = _replay_arrays(model)
        if isinstance(model, FastDQN | FastRowDQN):
            tensors["replay"] |= model.priorities()
        state["calls"] = getattr(model, "_n_calls", 0)
        state["exploration_rate"] = getattr(model, "exploration_rate", 0.0)
    return Saved(tensors, state)


def restore(algorithm: BaseAlgorithm, name: str, saved: Saved, *, compiled: bool) -> None:
    """Go on from `save`; raises ValueError where the state is another algorithm's or size's."""
    model: Any = algorithm
    tensors, state = saved.tensors, saved.state
    try:
        counts = [state.get(count, 0) for count in ("steps", "updates", "episodes", "calls")]
        infos = [number for info in state.get("episode_infos", ()) for number in info]
        if not 0 <= state["numpy"]["pos"] <= 624:  # numpy would read beyond its state
            raise ValueError("the checkpoint's random generator is at no position")
        if not all(type(n) in (int, float) for n in (*counts, *infos, state.get("progress", 0.0))) or min(counts) < 0:
            raise ValueError(f"the checkpoint's counters do not fit this {name} learner")
        model.policy.load_state_dict(as_tensors(tensors["policy"]))
        _restore_optimizer(model.policy.optimizer, tensors["optimizer"], state["optimizer_groups"])
        if tensors["last"]["observations"].shape != np.shape(model._last_obs):
            raise ValueError(f"the checkpoint is of {len(tensors['last']['observations'])} worlds")
        if tensors["last"]["episode_starts"].shape != np.shape(model._last_episode_starts):
            raise ValueError("the checkpoint's episode starts are of another number of worlds")
        model._last_obs = tensors["last"]["observations"]
        model._last_episode_starts = tensors["last"]["episode_starts"]
        model.num_timesteps, model._n_updates = state["steps"], state["updates"]
        model._episode_num = state["episodes"]
        model._current_progress_remaining = state["progress"]
        infos = [{"r": r, "l": length} for r, length in state["episode_infos"]]
        model.ep_info_buffer = deque(infos, maxlen=model._stats_window_size)
        if (normalizer := model.get_vec_normalize_env()) is not None:
            _restore_normalizer(normalizer, tensors["normalizer"], state["normalizer_counts"])
            model._last_original_obs = tensors["last"].get("original_observations")
        if not isinstance(model, OnPolicyAlgorithm):
            _restore_replay(model, tensors["replay"], state["replay"])
            if isinstance(model, FastDQN | FastRowDQN):
                model.restore_priorities(tensors["replay"])
            model._n_calls, model.exploration_rate = state["calls"], state["exploration_rate"]
        if compiled:
            model.key, model.drawn = np.uint64(state["key"] & 0xFFFFFFFF), state["drawn"] & (2**40 - 1)
        model.action_space.np_random.bit_generator.state = state["action_space"]
        _restore_generators(tensors["generators"], state)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"the checkpoint does not fit this {name} learner: {error}") from None


def as_arrays(state: dict[str, torch.Tensor]) -> dict[str, Array]:
    """Return copies of tensors, on whatever device, as arrays of the same names."""
    return {key: value.detach().cpu().numpy().copy() for key, value in state.items()}


def as_tensors(arrays: dict[str, Array]) -> dict[str, torch.Tensor]:
    """Return copies of arrays as tensors of the same names."""
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


def _optimizer_arrays(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Array], list[dict[str, Any]]]:
    state = optimizer.state_dict()
    flat = {f"{i}.{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
    return as_arrays(flat), state["param_groups"]


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, arrays: dict[str, Array], groups: list[dict[str, Any]]
) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in as_tensors(arrays).items():
        index, _, field = key.partition(".")
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _normalizer_arrays(normalizer: Any) -> dict[str, Array]:
    arrays = {"return_mean": normalizer.ret_rms.mean, "return_var": normalizer.ret_rms.var}
    arrays["returns"] = normalizer.returns
    if normalizer.norm_obs:
        arrays |= {"observation_mean": normalizer.obs_rms.mean, "observation_var": normalizer.obs_rms.var}
    return {key: np.array(value) for key, value in arrays.items()}


def _restore_normalizer(normalizer: Any, arrays: dict[str, Array], counts: list[float]) -> None:
    normalizer.ret_rms.mean, normalizer.ret_rms.var = arrays["return_mean"], arrays["return_var"]
    normalizer.returns, normalizer.ret_rms.count = arrays["returns"], counts[1]
    if normalizer.norm_obs:
        normalizer.obs_rms.mean, normalizer.obs_rms.var = (
            arrays["observation_mean"],
            arrays["observation_var"],
        )
        normalizer.obs_rms.count = counts[0]


def _kept(buffer: Any) -> tuple[str, ...]:
    return (*_REPLAY, "next_legal", "acted") if isinstance(buffer, ActingReplay) else _REPLAY


def _replay_arrays(model: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    buffer = model.replay_buffer
    assert buffer is not None
    filled = buffer.buffer_size if buffer.full else buffer.pos
    return {key: getattr(buffer, key)[:filled] for key in _kept(buffer)}, {"pos": buffer.pos, "full": buffer.full}


def _restore_replay(model: Any, arrays: dict[str, Array], state: dict[str, Any]) -> None:
    buffer = model.replay_buffer
    assert buffer is not None
    if type(state["full"]) is not bool or type(state["pos"]) is not int or not 0 <= state["pos"] < buffer.buffer_size:
        raise ValueError("replay buffer: it is filled to no place of its own")
    if isinstance(model.action_space, Discrete) and arrays["actions"].size:
        lowest, highest = arrays["actions"].min(), arrays["actions"].max()
        if arrays["actions"].dtype.kind not in "iu" or lowest < 0 or highest >= model.action_space.n:
            raise ValueError(f"replay buffer: actions {lowest} to {highest} are not of {model.action_space}")
    for key in _kept(buffer):
        target = getattr(buffer, key)
        filled = len(target) if state["full"] else state["pos"]
        if arrays[key].shape != (filled, *target.shape[1:]):
            raise ValueError(f"replay buffer: {key} of shape {arrays[key].shape} does not fit {target.shape}")
        target[: len(arrays[key])] = arrays[key]
    buffer.pos, buffer.full = state["pos"], state["full"]


def _python_state() -> list[Any]:
    version, words, gauss = random.getstate()
    return [version, list(words), gauss]


def _restore_generators(arrays: dict[str, Array], state: dict[str, Any]) -> None:
    torch.set_rng_state(torch.from_numpy(np.array(arrays["torch"])))
    if "cuda" in arrays and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(np.array(arrays["cuda"])))
    numpy_state = state["numpy"]
    inner = {"key": arrays["numpy"], "pos": numpy_state["pos"]}
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": inner,
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        }
    )
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
