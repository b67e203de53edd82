"""This module makes the arrays of a plain batch raise an error where compiled code would access other memory silently.

`first_start` plays a new version of a world on such a batch before its machine code runs.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.core.record import PlainArray, PlainRecord, plain_value
from rl_lab.engine.buffers import View

if TYPE_CHECKING:
    from rl_lab.engine.batch import Batch


class OutOfRangeError(IndexError):
    """An index below 0 or behind the end: compiled code does not check either.

    `wraps`: it is below 0 and counts from the end, in compiled code as in Python.
    """

    def __init__(self, text: str, wraps: bool = False) -> None:
        super().__init__(text)
        self.wraps = wraps


class OutOfTimeError(BaseException):
    """A kernel touched an array after the time for playing was over; kernels cannot catch it by `except Exception`."""


def with_bounds_checks(batch: Batch, deadline: float = math.inf) -> Batch:
    """Make a plain batch raise OutOfRangeError for every index out of range in its kernels; return it.

    After `deadline`, on time.monotonic()'s clock, touching any array raises OutOfTimeError.
    """
    view = batch._handle
    batch._handle = View(
        *(_CheckedArray(part._array, deadline) if isinstance(part, PlainArray) else part for part in view)
    )
    return batch


def _with_checks(value: Any, deadline: float) -> Any:
    if isinstance(value, np.void):
        return _CheckedRecord(value, deadline)
    return _CheckedArray(value, deadline) if isinstance(value, np.ndarray) else plain_value(value)


class _CheckedRecord(PlainRecord):
    __slots__ = ("_deadline",)

    def __init__(self, row: np.void, deadline: float) -> None:
        super().__init__(row)
        object.__setattr__(self, "_deadline", deadline)

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return _with_checks(self._row[name], self._deadline) if isinstance(value, PlainArray | PlainRecord) else value


class _CheckedArray(PlainArray):
    __slots__ = ("_deadline",)

    def __init__(self, array: np.ndarray[Any, Any], deadline: float) -> None:
        super().__init__(array)
        self._deadline = deadline

    def __getitem__(self, index: Any) -> Any:
        self._check(index)
        return _with_checks(self._array[index], self._deadline)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._check(index)
        self._array[index] = value

    def _check(self, index: Any) -> None:
        if time.monotonic() > self._deadline:
            raise OutOfTimeError
        for axis, i in enumerate(index if isinstance(index, tuple) else (index,)):
            size = self._array.shape[axis] if axis < self._array.ndim else 0
            if isinstance(i, int | np.integer) and not 0 <= i < size:
                wraps = -size <= i < 0
                location = f"axis {axis} of an array {list(self._array.shape)}"
                counts = " (it would count from the end)" if wraps else ""
                raise OutOfRangeError(f"index {i} is not in 0 to {size - 1}, {location}{counts}", bool(wraps))
