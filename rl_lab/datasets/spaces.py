"""Spaces as Minari writes them into a data set's metadata: JSON text with type, shape, dtype and bounds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.agent_spaces import MOST_ACTIONS
from rl_lab.core.untrusted import checked_int, checked_list, checked_type, parse_json

_DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64")
_MOST_NUMBERS = 2**24  # of one observation or action


def to_text(space: Box | Discrete[Any]) -> str:
    """Return a space as JSON text."""
    if isinstance(space, Discrete):
        return json.dumps({"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)})
    bounds = {"low": space.low.tolist(), "high": space.high.tolist()}  # infinite ones as Infinity, as Minari does
    return json.dumps({"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **bounds})


def from_text(text: object, name: str) -> Box | Discrete[Any]:
    """Return the space that JSON text describes; `name` is that of the space in error messages.

    Raises ValueError for other text, and for spaces that are neither a Box nor a Discrete that starts at 0.
    """
    description = checked_type(parse_json(checked_type(text, name, str)), name, dict)
    kind = description.get("type")
    if kind == "Discrete":
        if checked_int(description.get("start", 0), f"{name}'s start", -(2**62)) != 0:
            raise ValueError(f"{name} starts at {description['start']}; expected a Discrete that starts at 0")
        return Discrete(checked_int(description.get("n"), f"{name}'s n", 1, MOST_ACTIONS))
    if kind != "Box":
        raise ValueError(f"{name} is a {kind!s:.40}; expected a Box{' or a Discrete' * ('action' in name)}")
    dtype = checked_type(description.get("dtype"), f"{name}'s dtype", str)
    if dtype not in _DTYPES:
        raise ValueError(f"{name} has dtype {dtype:.40}; expected one of {', '.join(_DTYPES)}")
    shape = tuple(
        checked_int(size, f"{name}'s shape", 1, _MOST_NUMBERS) for size in checked_list(description.get("shape"), name)
    )
    if int(np.prod([float(size) for size in shape])) > _MOST_NUMBERS:
        raise ValueError(f"{name} has shape {list(shape)}, which is too large")
    bounds = []
    for side in ("low", "high"):
        try:
            bounds.append(np.broadcast_to(np.array(description.get(side), dtype), shape))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name}'s {side} does not fit shape {list(shape)} and dtype {dtype}") from None
    try:
        return Box(bounds[0], bounds[1], shape, np.dtype(dtype).type)
    except (AssertionError, ValueError) as error:
        raise ValueError(f"{name} is no Box: {error}") from None
