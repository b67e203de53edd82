"""This module checks values from files that may be damaged or hostile: their type, range, shape and size.

Each `checked_` function returns the value, or raises ValueError with one line that has the value's name. All JSON files
are read by `read_json`.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]

MAX_COUNT = 2**62  # the largest count
_MAX_DIGITS = 100  # the most digits of a whole number, so that each is within a float's range
_MAX_DEPTH = 64  # the most levels of nested lists and mappings
_Type = TypeVar("_Type", str, dict[str, Any], list[Any], bool, float)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError for other text, deep nesting and numbers of many digits."""
    try:
        value = json.loads(text, parse_int=_parse_int)
    except RecursionError:
        raise ValueError(f"lists and mappings lie over {_MAX_DEPTH} levels deep") from None
    _require_shallow(value)
    return value


def read_json(path: Path, max_bytes: int) -> Any:
    """Return the value of a JSON file of at most `max_bytes`. Raises ValueError as `parse_json` does, or OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        information = os.fstat(descriptor)
        if not stat.S_ISREG(information.st_mode):
            raise ValueError("it is not a file")
        if information.st_size > max_bytes:
            raise ValueError(f"it has {information.st_size:,} bytes; {max_bytes:,} at most are read")
        return parse_json(file.read(max_bytes))


def checked_int(value: Any, name: str, low: int = 0, high: int = MAX_COUNT) -> int:
    """Return an integer that lies between low and high, both included."""
    if type(value) is not int or not low <= value <= high:
        raise _refusal(value, name, f"{low} to {high}")
    return value


def checked_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number that lies between low and high, both included.

    A whole number beyond 2**53 was no float before it was written: it is refused.
    """
    is_number = type(value) is float or (type(value) is int and abs(value) <= 2**53)
    if not is_number or not abs(value) < 1e300 or not low <= value <= high:
        raise _refusal(value, name, f"a number, {low:g} to {high:g}")
    checked: float = value
    return checked


def is_finite(value: Any) -> bool:
    """Return whether a value and all that its lists and mappings hold are no infinite number and no NaN."""
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def checked_type(value: Any, name: str, expected_type: type[_Type]) -> _Type:
    """Return a value of exactly this type."""
    if type(value) is not expected_type:
        raise _refusal(value, name, expected_type.__name__)
    return value


def checked_list(value: Any, name: str, length: int | None = None) -> list[Any]:
    """Return a list, of `length` elements if that is not None."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise _refusal(value, name, "a list" if length is None else f"a list of {length}")
    return value


def checked_shape(value: object, name: str, like: Array) -> Array:
    """Return an array of the shape and dtype of `like`."""
    if not isinstance(value, np.ndarray) or value.shape != like.shape or value.dtype != like.dtype:
        actual = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{name} is {actual}; expected {like.dtype} {list(like.shape)}")
    return value


def checked_array(value: object, name: str, like: Array, low: float = -math.inf, high: float = math.inf) -> Array:
    """Return an array of the shape and dtype of `like` whose numbers are finite and lie between low and high."""
    result = checked_shape(value, name, like)
    if result.size and result.dtype.kind == "f" and not np.isfinite(result).all():
        raise ValueError(f"{name} has numbers that are not finite")
    if result.size and (low, high) != (-math.inf, math.inf) and not (low <= result.min() and result.max() <= high):
        raise ValueError(f"{name} is {result.min()} to {result.max()}; expected {low:g} to {high:g}")
    return result


def _refusal(value: Any, name: str, expected: str) -> ValueError:
    return ValueError(f"{name} is {value!r:.40}; expected {expected}")


def _parse_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a whole number has {len(text)} digits")
    return int(text)


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"lists and mappings lie over {_MAX_DEPTH} levels deep")
