"""Batches in plain Python whose arrays refuse what compiled code would do to memory in silence."""

from __future__ import annotations

from typing import Any

import numpy as np

from .engine import Batch
from .layout import View
from .record import PlainArray, PlainRecord, _plain


class OutOfRangeError(IndexError):
    """An index below 0 or behind the end: compiled code does not check either."""


def guard(batch: Batch) -> Batch:
    """Make a plain batch raise OutOfRangeError for every index out of range in its kernels; return it."""
    view = batch._handle
    batch._handle = View(*(_Array(part._array) if isinstance(part, PlainArray) else part for part in view))
    return batch


def _wrapped(value: Any) -> Any:
    if isinstance(value, np.void):
        return _Row(value)
    return _Array(value) if isinstance(value, np.ndarray) else _plain(value)


class _Row(PlainRecord):
    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return _wrapped(self._row[name]) if isinstance(value, PlainArray | PlainRecord) else value


class _Array(PlainArray):
    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        self._check(index)
        return _wrapped(self._array[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._check(index)
        self._array[index] = value

    def _check(self, index: Any) -> None:
        for axis, i in enumerate(index if isinstance(index, tuple) else (index,)):
            size = self._array.shape[axis]
            if isinstance(i, int | np.integer) and not 0 <= i < size:
                wraps = " (it would count from the end)" if -size <= i < 0 else ""
                place = f"axis {axis} of an array {list(self._array.shape)}"
                raise OutOfRangeError(f"index {i} is not in 0 to {size - 1}, {place}{wraps}")
