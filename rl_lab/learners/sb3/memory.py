"""Checks the memory that a learner needs before it is built, because the system kills a process that takes too much.

It reads the memory of this machine and, in a container, the limit in its cgroup's files.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from gymnasium.spaces import Dict, Discrete
from stable_baselines3.common.vec_env import VecEnv

_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
_COPIES = 4  # numbers for each weight: the weight, its gradient and two Adam moments
_NETWORKS = 2  # policy and value network, or network and target network
_FEATURES = 128  # outputs of the convolutional features extractor


def require_memory(env: VecEnv, arguments: dict[str, Any]) -> None:
    """Raise ValueError where networks and buffers exceed this machine's memory; its message names the larger part.

    `arguments` are those of SB3's algorithm.
    """
    obs_space = env.observation_space
    parts = list(obs_space.spaces.values()) if isinstance(obs_space, Dict) else [obs_space]
    sizes = [math.prod(part.shape or (1,)) for part in parts]
    obs_bytes = sum(
        n * (4 if part.dtype is None else part.dtype.itemsize) for n, part in zip(sizes, parts, strict=True)
    )
    obs_size = sum(sizes)
    space = env.action_space
    outputs = int(space.n) if isinstance(space, Discrete) else math.prod(space.shape or (1,))
    networks = _network_bytes(obs_size, outputs, arguments.get("policy_kwargs", {}))
    if "buffer_size" in arguments:
        setting, rows = "buffer_size", arguments["buffer_size"] * 2  # observations and next observations
    else:
        setting, rows = "n_steps", arguments.get("n_steps", 1) * env.num_envs
    state_bytes = 4 * arguments.get("policy_kwargs", {}).get("recurrent_size", 0)
    buffers = rows * (obs_bytes + state_bytes)
    limit = _memory_limit()
    if networks + buffers <= limit:
        return
    cause = f"net_arch={list(arguments.get('policy_kwargs', {}).get('net_arch', ()))} with {outputs:,} outputs"
    if buffers > networks:
        cause = f"{setting}={arguments.get(setting)} in {env.num_envs:,} rows of {obs_size:,} numbers"
    raise ValueError(f"{cause} needs {_gigabytes(networks + buffers)} of memory; this machine has {_gigabytes(limit)}")


def _network_bytes(obs_size: int, outputs: int, policy_kwargs: dict[str, Any]) -> int:
    """Return the memory of both networks with gradients and Adam's moments."""
    inputs = _FEATURES if "features_extractor_class" in policy_kwargs else obs_size
    recurrent = policy_kwargs.get("recurrent_size", 0)
    units = [recurrent or inputs, *policy_kwargs.get("net_arch", ()), outputs]
    weights = sum(a * b + b for a, b in zip(units, units[1:], strict=False)) + 3 * recurrent * (inputs + recurrent)
    return int(weights * 4 * _COPIES * _NETWORKS)


def _memory_limit() -> int:
    """Return the maximum memory of this process in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMIT_FILES:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # there is no container, or its limit is "max"
            continue
    return min(limits)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
