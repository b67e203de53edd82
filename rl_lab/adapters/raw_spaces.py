"""This module finds the spaces with which an exported policy can play a foreign environment without the lab.

The exporter of SB3 policies calls `spaces_outside`. Where the lab's adapter converts data in a way that nothing outside
does, such as padding, the export is refused.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space

from rl_lab.adapters.structured import channels_first, normalized_space
from rl_lab.core.protocols import BatchedEnv


def spaces_outside(
    envs: BatchedEnv, observation: Space[Any], action: Space[Any], seats: tuple[int, ...] | None = None
) -> tuple[Space[Any], Space[Any]]:
    """Return the observation and action space with which a policy plays the environment without the lab.

    For worlds of the lab, they are the policy's own. For foreign environments, they are the environment's: the policy
    casts double precision to single, and Stable-Baselines3 encodes Discrete observations one-hot. Images have their
    channels first, as in SB3's own files.

    Args:
        envs: the batch in which the policy was trained.
        observation: the policy's observation space in the lab.
        action: the policy's action space in the lab.
        seats: the indices of the agents that use the policy; None for all.

    Raises:
        ValueError: the lab's adapter makes a conversion that nothing outside the lab makes; the message names it.
    """
    raw_spaces: list[tuple[Any, Any]] | None = getattr(envs, "raw_spaces", None)
    if raw_spaces is None:
        return deepcopy(observation), deepcopy(action)
    spaces: list[tuple[Space[Any], Space[Any]]] = []
    reasons: list[str] = []
    for raw_observation, raw_action in raw_spaces if seats is None else [raw_spaces[seat] for seat in seats]:
        if reason := _conversion(raw_observation, raw_action, observation, action):
            reasons.append(reason)
        elif (outside := (_space_outside_lab(raw_observation, observation), raw_action)) not in spaces:
            spaces.append(outside)
    if reasons or len(spaces) != 1:
        several = "its agents have spaces of their own, which the lab pads to one"
        raise ValueError(f"{envs.world.name}: {reasons[0] if reasons else several}; outside the lab nothing does it")
    return deepcopy(spaces[0][0]), deepcopy(spaces[0][1])


def _space_outside_lab(raw_space: Any, observation: Space[Any]) -> Any:
    """Return the space that SB3's policy would see of a raw space: VecNormalize's, or with channels first."""
    normalized = normalized_space(raw_space)
    return normalized if normalized is not raw_space and observation == normalized else channels_first(raw_space)


def _conversion(raw_observation: Any, raw_action: Any, observation: Space[Any], action: Space[Any]) -> str:
    """Return a text that names the conversion of one agent's data that SB3 would not make; "" if there is none."""
    if (
        isinstance(raw_observation, Dict)
        and isinstance(observation, Dict)
        and set(raw_observation.spaces) == set(observation.spaces)
    ):
        for key, part in raw_observation.spaces.items():
            if reason := _array_conversion(part, observation[key], f"observations[{key!r}]", structured=True):
                return reason
    elif isinstance(observation, Dict):
        return f"observations are a {type(raw_observation).__name__}, and the lab makes a Dict of arrays of them"
    elif reason := _array_conversion(raw_observation, observation, "observations", structured=False):
        return reason
    if reason := _offset_conversion(raw_action, "actions"):
        return reason
    if isinstance(raw_action, Discrete):
        same = isinstance(action, Discrete) and int(action.n) == int(raw_action.n)
    else:
        same = action.shape == raw_action.shape
    return "" if same else f"actions are {raw_action}, and the policy takes {action}"


def _offset_conversion(space: Any, name: str) -> str:
    start = np.ravel(space.start) if isinstance(space, Discrete | MultiDiscrete) else np.zeros(1)
    first = start.tolist() if isinstance(space, MultiDiscrete) else start[0]
    return f"{name} are numbered from {first}, and the lab shifts them to begin at 0" if start.any() else ""


def _array_conversion(raw_space: Any, observation: Space[Any], name: str, *, structured: bool) -> str:
    """Return a text as `_conversion` does for one array; a Discrete is one-hot unless it is part of a Dict."""
    if reason := _offset_conversion(raw_space, name):
        return reason
    raw_space = _space_outside_lab(raw_space, observation)
    if isinstance(raw_space, Discrete) and not structured:
        return (
            ""
            if observation.shape == (int(raw_space.n),)
            else f"{name} are {raw_space}, and the policy sees {observation}"
        )
    if observation.shape != raw_space.shape:
        return f"{name} are of shape {raw_space.shape}, and the lab makes {observation.shape} of them"
    if isinstance(raw_space, Box) and raw_space.dtype == np.uint8 and observation.dtype != np.uint8:
        return f"{name} are {raw_space.dtype}, and the lab makes {observation.dtype} of them"
    if not isinstance(raw_space, type(observation)):
        return f"{name} are {raw_space}, and the policy sees {observation}"
    return ""
