"""Checks the state of an algorithm in a checkpoint against the algorithm before it is restored.

A checkpoint's hashes do not prove who wrote it, so that every number that is restored is checked for type, shape and
range. The functions change nothing, and raise ValueError with one line. They need the algorithm that will be restored:
its own state says which names, shapes and types are right.
"""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import torch

from rl_lab.core.untrusted import checked_array, checked_int, checked_list, checked_number, checked_shape, checked_type
from rl_lab.core.world import Array

_MOMENT = re.compile(r"(0|[1-9][0-9]{0,5})\.([a-z_]+)")  # index of a parameter, name of its moment
_NORMAL_RANGE = (
    -20.0,
    20.0,
)  # of a generator's stored normal number: those made of 64 random bits lie between -13 and 13


def check_counters(state: dict[str, Any], window: int) -> None:
    """Check the counters of steps, updates and episodes, and the returns and lengths of the last episodes."""
    for name in ("steps", "updates", "episodes"):
        checked_int(state[name], name)
    checked_number(state["progress"], "progress", high=1.0)
    for info in checked_list(state["episode_infos"], "episode_infos"):
        episode_return, length = checked_list(info, "episode_infos", 2)
        checked_number(checked_type(episode_return, "episode_infos", float), "episode_infos")
        checked_int(length, "episode_infos")
    if len(state["episode_infos"]) > window:
        raise ValueError(f"episode_infos has {len(state['episode_infos'])} episodes; expected at most {window}")
    if "calls" in state:
        checked_int(state["calls"], "calls")
        checked_number(state["exploration_rate"], "exploration_rate", 0.0, 1.0)
    for name in {"key", "rng_counter"} & set(state):
        checked_int(state[name], name, 0, 2**64 - 1)


def check_parameters(policy: Any, arrays: dict[str, Array]) -> None:
    """Check that parameters have the names and shapes of this policy's and are finite."""
    expected = policy.state_dict()
    if differing := sorted(set(expected) ^ set(arrays)):
        raise ValueError(f"policy: {differing[0]:.80} is missing or unknown")
    for name, tensor in expected.items():
        checked_array(arrays[name], f"policy: {name}", tensor.detach().cpu().numpy())


def validated_optimizer_groups(optimizer: torch.optim.Optimizer, saved: Any) -> list[dict[str, Any]]:
    """Return the optimizer's settings with the learning rates of a checkpoint, whose other settings must be equal."""
    groups = [dict(group) for group in optimizer.state_dict()["param_groups"]]
    for group, saved_group in zip(groups, checked_list(saved, "optimizer_groups", len(groups)), strict=True):
        for key, value in checked_type(saved_group, "optimizer_groups", dict).items():
            if key == "lr":
                group[key] = checked_number(value, "optimizer_groups: lr", 0.0)
                continue
            expected = group.get(key, ...)
            expected, value = (list(each) if isinstance(each, tuple) else each for each in (expected, value))
            if type(expected) is not type(value) or expected != value:
                raise ValueError(f"optimizer_groups: {key:.40} is {value!r:.40}; expected {expected!r:.40}")
        if "lr" not in saved_group or "params" not in saved_group:
            raise ValueError("optimizer_groups: lr or params is missing")
    return groups


def validated_moments(optimizer: torch.optim.Optimizer, arrays: dict[str, Array]) -> dict[int, dict[str, torch.Tensor]]:
    """Return Adam's moments and number of steps by the index of the parameter.

    `arrays` are named "INDEX.step", "INDEX.exp_avg" and "INDEX.exp_avg_sq". A parameter has all three, or none.

    Raises ValueError where a name, a shape or a value does not fit the optimizer's parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {"step", "exp_avg", "exp_avg_sq"}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, moment in arrays.items():
        match = _MOMENT.fullmatch(key)
        if match is None or int(match[1]) >= len(parameters) or match[2] not in names:
            raise ValueError(f"optimizer: there is no {key:.40}")
        like = np.zeros(() if match[2] == "step" else tuple(parameters[int(match[1])].shape), np.float32)
        checked_array(moment, f"optimizer: {key}", like, *(() if match[2] == "exp_avg" else (0.0, 1e38)))
        state.setdefault(int(match[1]), {})[match[2]] = torch.from_numpy(np.array(moment))
    for index, moments in state.items():
        if missing := names - set(moments):
            raise ValueError(f"optimizer: {index}.{min(missing)} is missing")
    return state


def arrays_by_name(name: str, observations: Any) -> dict[str, Array]:
    """Return observations as arrays by name: one array, or one for each key of a Dict observation."""
    if isinstance(observations, dict):
        return {f"{name}/{key}": np.asarray(value) for key, value in observations.items()}
    return {name: np.asarray(observations)}


def check_last_observations(tensors: dict[str, Array], model: Any) -> None:
    """Check the observations, episode starts and recurrent states with which the next iteration begins."""
    for name, current in arrays_by_name("observations", model._last_obs).items():
        saved = tensors[name]
        if saved.shape[1:] == current.shape[1:] and len(saved) != len(current):
            raise ValueError(f"the checkpoint has {len(saved)} rows, this learner {len(current)}")
        if np.isnan(checked_shape(saved, name, current)).any():
            raise ValueError(f"{name} contains NaN")
    checked_shape(tensors["episode_starts"], "episode_starts", np.asarray(model._last_episode_starts))
    if (states := getattr(model, "recurrent_states", None)) is not None:
        checked_array(tensors["recurrent_states"], "recurrent_states", states)
    if any(name.partition("/")[0] == "original_observations" for name in tensors):
        for name, like in arrays_by_name("original_observations", model._last_original_obs).items():
            checked_shape(tensors[name], name, like)


def check_normalizer(normalizer: Any, arrays: dict[str, Array], counts: Any) -> None:
    """Check the running statistics of observations and returns."""
    for name, current, low in (
        ("return_mean", normalizer.ret_rms.mean, -1e300),
        ("return_var", normalizer.ret_rms.var, 0.0),
        ("returns", normalizer.returns, -1e300),
    ):
        checked_array(arrays[name], f"normalizer: {name}", np.asarray(current), low, 1e300)
    if normalizer.norm_obs:
        checked_array(arrays["observation_mean"], "normalizer: observation_mean", np.asarray(normalizer.obs_rms.mean))
        var = np.asarray(normalizer.obs_rms.var)
        checked_array(arrays["observation_var"], "normalizer: observation_var", var, 0.0, 1e300)
    for count in checked_list(counts, "normalizer_counts", 2):
        checked_number(count, "normalizer_counts", 0.0)


def check_generators(arrays: dict[str, Array], state: dict[str, Any]) -> None:
    """Check the states of random, numpy and torch."""
    current = np.random.get_state(legacy=False)
    checked_array(arrays["numpy"], "generators: numpy", current["state"]["key"])
    checked_int(state["numpy"]["pos"], "the random generator's position", 0, 624)  # numpy would read beyond its state
    checked_int(state["numpy"]["has_gauss"], "numpy: has_gauss", 0, 1)
    checked_number(state["numpy"]["gauss"], "numpy: gauss", *_NORMAL_RANGE)
    checked_shape(arrays["torch"], "generators: torch", torch.get_rng_state().numpy())
    if "cuda" in arrays and torch.cuda.is_available():
        checked_shape(arrays["cuda"], "generators: cuda", torch.cuda.get_rng_state().cpu().numpy())
    version, words, gauss = checked_list(state["python"], "python", 3)
    checked_int(version, "python: version", random.getstate()[0], random.getstate()[0])
    *words, position = checked_list(words, "python", 625)
    for word in words:
        checked_int(word, "python", 0, 2**32 - 1)
    checked_int(position, "python: position", 0, 624)
    if gauss is not None:
        checked_number(gauss, "python: gauss", *_NORMAL_RANGE)


def check_bit_generator_state(saved: Any, current: dict[str, Any], name: str = "action_space") -> None:
    """Check that the state of a bit generator has the keys of the current one and words of at most 128 bits."""
    if sorted(checked_type(saved, name, dict)) != sorted(current):
        raise ValueError(f"{name} has the keys {', '.join(sorted(saved)):.80}")
    limits = {"has_uint32": 1, "uinteger": 2**32 - 1}
    for key, value in current.items():
        if isinstance(value, dict):
            check_bit_generator_state(saved[key], value, f"{name}: {key}")
        elif isinstance(value, int):
            checked_int(saved[key], f"{name}: {key}", 0, limits.get(key, 2**128 - 1))
        elif saved[key] != value:
            raise ValueError(f"{name}: {key} is {saved[key]!r:.40}; expected {value!r}")
