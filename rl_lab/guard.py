"""Batches in plain Python whose arrays refuse what compiled code would do to memory in silence."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Batch
from .kernel import reached
from .layout import View
from .record import PlainArray, PlainRecord, _plain
from .world import World


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


def authored_files(world: World) -> set[str]:
    """Return the files that a world's kernels are written in; the lab's own kernels are not among them."""
    kernels = [world.reset, world.step, world.observe, world.legal, world.expert, world.novice, world.swap]
    functions = {function for kernel in kernels if kernel for function in reached(kernel)}
    return {f.__code__.co_filename for f in functions if f.__module__ not in ("rl_lab.rng", "rl_lab.trig")}


def place_of(error: BaseException, files: set[str] | None) -> str:
    """Return "file:line function: " of the last line in one of these files that led to the error, "" where none did.

    None: in any file but the lab's and Python's own.
    """
    ours, frames = Path(__file__).parent, []
    for frame in traceback.extract_tb(error.__traceback__):
        elsewhere = not frame.filename.startswith("<") and Path(frame.filename).parent != ours
        if elsewhere if files is None else frame.filename in files:
            frames.append(frame)
    return f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}: " if frames else ""
