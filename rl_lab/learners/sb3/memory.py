"""Check the memory that a learner needs before it is built, because the system kills a process that takes too much."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from gymnasium.spaces import Dict, Discrete
from stable_baselines3.common.vec_env import VecEnv

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # files with a container's limit
_COPIES = 4  # numbers for each weight: the weight, its gradient and two Adam moments
_NETWORKS = 2  # policy and value network, or network and target network
_FEATURES = 128  # outputs of the convolutional features extractor


def require_memory(env: VecEnv, arguments: dict[str, Any]) -> None:
    """Raise ValueError, which names the larger part, where networks and buffers exceed this machine's memory."""
    obs_space = env.observation_space
    parts = list(obs_space.spaces.values()) if isinstance(obs_space, Dict) else [obs_space]
    counts = [math.prod(part.shape or (1,)) for part in parts]
    obs_size = sum(counts)
    space = env.action_space
    outputs = int(space.n) if isinstance(space, Discrete) else math.prod(space.shape or (1,))
    policy = arguments.get("policy_kwargs", {})
    first = _FEATURES if "features_extractor_class" in policy else obs_size
    sizes = [first, *policy.get("net_arch", ()), outputs]
    weights = sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False)) * 4 * _COPIES * _NETWORKS
    row = sum(n * (4 if part.dtype is None else part.dtype.itemsize) for n, part in zip(counts, parts, strict=True))
    if "buffer_size" in arguments:
        key, rows = "buffer_size", arguments["buffer_size"] * 2
    else:
        key, rows = "n_steps", arguments.get("n_steps", 1) * env.num_envs
    buffers = rows * row
    available = _memory_limit()
    if weights + buffers <= available:
        return
    what = f"net_arch={list(policy.get('net_arch', ()))} with {outputs:,} outputs"
    if buffers > weights:
        what = f"{key}={arguments.get(key)} in {env.num_envs:,} rows of {obs_size:,} numbers"
    raise ValueError(
        f"{what} needs {_gigabytes(weights + buffers)} of memory; this machine has {_gigabytes(available)}"
    )


def _memory_limit() -> int:
    """Return the maximum memory of this process in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # there is no container, or its limit is "max"
            continue
    return min(limits)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
