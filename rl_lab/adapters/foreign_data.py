"""This module checks the values that foreign environments return against their spaces and their interface.

Each function returns the value in the type that a batch stores, or raises InvalidDataError, whose text describes the
value; `foreign_errors.calling` adds the environment and the call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from rl_lab.adapters.foreign_errors import ForeignError, InvalidDataError, location_of_method
from rl_lab.core import non_finite
from rl_lab.core.errors import one_line
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError

_DEFAULT_FPS, _MAX_FPS = 30, 1000  # frames per second: of environments that declare none; the most of a video
_TOLERANCE = 1e-3  # relative to the bounds: an observation that exceeds them by less leads to no warning


def _describe(value: Any) -> str:
    """Return a text with a value's shape and dtype, or with its type where it is no array of numbers."""
    try:
        array = np.asarray(value)
    except Exception:
        return f"a {type(value).__name__} that is no array"
    if array.dtype.kind not in "biufc":
        return f"{str(value)[:40]!r} ({type(value).__name__})"
    if array.ndim == 0:
        return f"{array.item()!r} ({type(value).__name__})"
    return f"shape {array.shape} {array.dtype}"


def _agent_suffix(agent: str) -> str:
    return f" for agent {agent}" if agent else ""


def checked_observation(value: Any, space: Any, agent: str = "", what: str = "observation") -> Any:
    """Return an observation as an array of its space's shape, or an int for Discrete.

    Raises:
        InvalidDataError: it has another shape, is not numeric, has fractions where the space has integers, or has
            integers that the space's dtype cannot hold; writing these into a batch would change or broadcast them.
    """
    if isinstance(space, Box):
        try:
            array = np.asarray(value)
        except Exception:
            array = np.zeros(0, object)
        if array.shape == space.shape and (array.dtype == space.dtype or _fits(array, space.dtype)):
            return array
    elif isinstance(space, Discrete):
        whole = np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biu"
        if whole and 0 <= int(value) - int(space.start) < int(space.n):
            return int(value)
    elif space.contains(value):
        return value
    raise InvalidDataError(f"returned an {what}{_agent_suffix(agent)} of {_describe(value)}, but its space is {space}")


def checked_space(space: Any, what: str, agent: str = "") -> Any:
    """Return a space; raises InvalidDataError if it is not one of gymnasium.spaces."""
    if isinstance(space, Space):
        return space
    value = one_line(repr(space))[:60]
    message = f"gave {what}{_agent_suffix(agent)} that is {value}, expected one of gymnasium.spaces"
    raise InvalidDataError(message)


def as_vector(space: Box) -> Box:
    """Return the Box itself, or for a single number, shape (), the Box of shape (1,) that a batch stores it in."""
    dtype: Any = space.dtype
    return space if space.shape else Box(space.low.reshape(1), space.high.reshape(1), dtype=dtype)


def _fits(array: Array, dtype: Any) -> bool:
    if dtype.kind == "f":
        return array.dtype.kind in "biuf"
    if array.dtype.kind not in "biu":
        return False
    if dtype.kind == "b":
        return bool(((array == 0) | (array == 1)).all())
    limits = np.iinfo(dtype)
    return array.size == 0 or bool(limits.min <= array.min() and array.max() <= limits.max)


def out_of_bounds(array: Array, space: Any) -> str:
    """Return a text with the first number of an observation that is outside a Box by more than rounding, or ""."""
    if not isinstance(space, Box):
        return ""
    values = array.astype(np.float64)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(invalid="ignore"):
        tolerance = _TOLERANCE * (
            1 + np.where(np.isfinite(low), np.abs(low), 0) + np.where(np.isfinite(high), np.abs(high), 0)
        )
        exceeds = (values < low - tolerance) | (values > high + tolerance)
    if not exceeds.any():
        return ""
    return f"{values[exceeds].ravel()[0]:g} is outside its space {space}"


def checked_number(value: Any, what: str, agent: str = "") -> float:
    """Return a reward in double precision; `value` may be an array of one number."""
    try:
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            return float(array.reshape(()))
    except Exception as error:
        message = f"returned a {what}{_agent_suffix(agent)} that is no number: {type(error).__name__}"
        raise InvalidDataError(message) from error
    raise InvalidDataError(f"returned a {what}{_agent_suffix(agent)} of {_describe(value)}, expected a number")


def store(target: Array, value: Any) -> None:
    """Write a value into an array of the batch; numbers beyond its precision become infinite, without a warning."""
    with np.errstate(over="ignore"):
        target[...] = value


def check_finite(world: EnvSpec, field: str, values: Array, steps: Array, envs: Sequence[Any]) -> None:
    """Raise NonFiniteError for NaN or infinity in the rewards or observations, [N, A, ...], of N environments.

    `steps`, int [N], are the steps of each episode so far. Infinity may be a number beyond single precision.
    """
    finite = np.isfinite(values).reshape(len(envs), -1).all(axis=1)
    if not finite.all():
        i = int(np.argmin(finite))
        call = "step" if steps[i] else "reset"
        description, location = non_finite.describe(values[i], world.agents), location_of_method(envs[i], call)
        text = f"{world.name}: non-finite {field} in world {i} at step {steps[i]}: {call} returned {description}"
        if field == "observation" and (part := _part_name(world, values[i])):
            text += f" of the vector, which is observation{part}"
        raise NonFiniteError(f"{text} ({location})" if location else text)


def _part_name(world: EnvSpec, values: Array) -> str:
    """Return the path of the first number that is not finite in structured observations [A, D], "" in others."""
    position = np.argwhere(~np.isfinite(values))[0].tolist()
    structures = getattr(world, "structures", ())
    structure = structures[position[0]] if structures else None
    return structure.path_of(position[1]) if structure is not None else ""


def checked_flag(value: Any, what: str, agent: str = "") -> bool:
    """Return a flag, such as terminated, as a bool; `value` may be an array of one number."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.reshape(()) not in (0, 1):
        message = f"returned {what}{_agent_suffix(agent)} of {_describe(value)}, expected True or False"
        raise InvalidDataError(message)
    return bool(array.reshape(()))


def checked_mask(value: Any, count: int, agent: str) -> Array:
    """Return an action mask as bool [count], True for legal actions."""
    array = np.asarray(value)
    if array.shape != (count,) or array.dtype.kind not in "biuf":
        message = f"returned an action mask{_agent_suffix(agent)} of {_describe(value)}"
        raise InvalidDataError(f"{message}, but it has {count} actions")
    return np.asarray(array != 0)


def checked_parts(result: Any, names: str) -> tuple[Any, ...]:
    """Return a call's result, a tuple with one part for each of the names, which are separated by commas."""
    count = names.count(",") + 1
    if not isinstance(result, tuple) or len(result) != count:
        actual = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise InvalidDataError(f"returned {actual}, expected {count}: {names}")
    return result


def as_picture(value: Any) -> Array:
    """Return a picture as uint8 [height, width, 3].

    Pictures that are grey, have an alpha channel, or consist of booleans, other integers or fractions from 0 to 1 are
    converted. The last picture of a list is used.
    """
    frame = value[-1] if isinstance(value, list | tuple) and value and np.ndim(value[-1]) == 3 else value
    try:
        image = np.asarray(frame)
    except Exception:
        image = np.zeros(0, object)
    if image.ndim == 2:
        image = image[..., None]
    is_valid = image.ndim == 3 and image.size > 0 and image.shape[2] in (1, 3, 4) and image.dtype.kind in "biuf"
    if not is_valid or not np.isfinite(image).all():
        raise InvalidDataError(f"returned {_describe(value)}, expected a picture: uint8 [height, width, 3]")
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255:
        raise InvalidDataError(f"returned a picture of numbers from {low:g} to {high:g}, expected 0 to 255")
    is_fraction = image.dtype.kind == "b" or (image.dtype.kind == "f" and high <= 1)
    return np.round(image.astype(np.float64) * (255 if is_fraction else 1)).astype(np.uint8)


def check_metadata(name: str, constructor: Any) -> None:
    """Raise ForeignError if the `metadata` of an environment's class is no dict, which Gymnasium's message hides."""
    metadata = getattr(constructor, "metadata", {})
    if not isinstance(metadata, dict):
        example = "{'render_modes': ['rgb_array'], 'render_fps': 30}"
        raise ForeignError(f"{name}: `metadata` is {one_line(metadata)[:60]}, expected a dict such as {example}")


def frames_per_second(metadata: Any) -> int:
    """Return `render_fps` of an environment's metadata, or 30 if that is missing or not usable for a video."""
    try:
        rate = float(metadata.get("render_fps", _DEFAULT_FPS))
    except (AttributeError, TypeError, ValueError):
        return _DEFAULT_FPS
    return min(max(round(rate), 1), _MAX_FPS) if math.isfinite(rate) and rate > 0 else _DEFAULT_FPS
