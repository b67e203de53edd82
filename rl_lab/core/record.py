"""This module defines records: structured numpy rows for a world's State, Params and Log.

A `Record` subclass lists its fields as annotations (`x: f4`, `board: u1[6, 7]`); `Record.dtype` is the aligned
numpy dtype that compiled kernels read. The same kernels also run as plain Python on `PlainRecord` views, with the
type promotion of the compiled code. So a breakpoint inside a world shows the same numbers as in training.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from rl_lab.core.errors import nearest


class FieldType:
    """The type of a field: `i4`, or with a shape `u1[6, 7]`. Calling it casts: `i4(x)` truncates to an int32."""

    def __init__(self, code: str, shape: tuple[int, ...] = ()) -> None:
        self.code, self.field_shape = code, shape
        self.scalar = np.dtype(code).type

    def __getitem__(self, shape: int | tuple[int, ...]) -> FieldType:
        return FieldType(self.code, shape if isinstance(shape, tuple) else (shape,))

    def __call__(self, value: Any) -> Any:
        """Return a number of this type."""
        return self.scalar(value).item()


def _operator(name: str) -> Any:
    single, double = getattr(np.float32, name), getattr(float, name)

    def operator(self: Any, other: Any) -> Any:
        if isinstance(other, np.float32):
            result = single(np.float32(self), np.float32(other))
            return f4(result) if isinstance(result, np.float32) else bool(result)
        return double(float(self), float(other))

    return operator


class f4(np.float32):  # noqa: N801 - named as the field type it is
    """Single precision with numba's promotion: f4 with f4 stays f4, f4 with a Python int or float becomes double.

    numpy's float32 would stay single with a Python number, so plain and compiled kernels would round differently. This
    class cannot correct one case: a variable that is f4 on one branch and a float on another (`x if c else 0.0`,
    `min(x, 1.0)`) is double in compiled code. So give both branches the same type.
    """

    code: ClassVar[str] = "f4"
    field_shape: ClassVar[tuple[int, ...]] = ()
    __hash__ = np.float32.__hash__

    def __class_getitem__(cls, shape: int | tuple[int, ...]) -> Any:
        return FieldType("f4", shape if isinstance(shape, tuple) else (shape,))

    def __pos__(self) -> f4:
        return self

    def __neg__(self) -> f4:
        return f4(np.float32.__neg__(self))

    def __abs__(self) -> f4:
        return f4(np.float32.__abs__(self))


for _name in "add sub mul truediv floordiv mod pow".split():
    setattr(f4, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(f4, f"__r{_name}__", _operator(f"__r{_name}__"))
for _name in "lt le gt ge eq ne".split():
    setattr(f4, f"__{_name}__", _operator(f"__{_name}__"))

f8 = FieldType("f8")
i1, i2, i4, i8 = (FieldType(code) for code in ("i1", "i2", "i4", "i8"))
u1, u2, u4, u8 = (FieldType(code) for code in ("u1", "u2", "u4", "u8"))


# The dtype of a Record without fields: numpy cannot view rows of zero bytes as bytes, nor count them afterwards.
_EMPTY_DTYPE = np.dtype({"names": [], "formats": [], "itemsize": 8})


@dataclass(frozen=True)
class bounded:  # noqa: N801 - reads as a default with a range: `speed: i4 = bounded(1, low=1, high=9)`
    """A field's default together with the range, ends included, in which its values must lie."""

    default: float
    low: float = -math.inf
    high: float = math.inf


class Record:
    """Base class of State, Params and Log. Subclasses annotate fields; defaults are allowed (Params needs them).

    `Params(speed=2)` makes an array of shape [1]; `Params.zeros(n)` makes one of shape [n].

    Raises:
        ValueError: a field is unknown, or its value does not fit its type or range.
        TypeError: a class declares a field of no field type, or one that is inherited.
    """

    dtype: ClassVar[np.dtype[Any]] = np.dtype([])
    defaults: ClassVar[dict[str, Any]] = {}
    ranges: ClassVar[dict[str, bounded]] = {}

    def __init_subclass__(cls) -> None:
        fields = [(name, cls.dtype[name]) for name in cls.dtype.names or ()]
        defaults, ranges = dict(cls.defaults), dict(cls.ranges)
        annotations = inspect.get_annotations(cls, eval_str=True)
        for name, value in cls.__dict__.items():
            if not name.startswith("_") and name not in annotations and isinstance(value, bounded | int | float | list):
                raise TypeError(
                    f"{cls.__module__}.{cls.__qualname__}.{name} has no type: write {name}: f4 = ..., or i4"
                )
        for name, _ in fields:
            if name in annotations or name in cls.__dict__:
                raise TypeError(f"{cls.__module__}.{cls.__qualname__}.{name}: the field is inherited already")
        for name, kind in annotations.items():
            if isinstance(kind, type) and issubclass(kind, Record):
                fields.append((name, kind.dtype))
            elif isinstance(kind, FieldType) or kind is f4:
                fields.append((name, np.dtype((kind.code, kind.field_shape))))
            else:
                raise TypeError(
                    f"{cls.__module__}.{cls.__qualname__}.{name}: {kind!r} is not a field type; "
                    "use f4 f8 i1 i2 i4 i8 u1 u2 u4 u8, one of them with a shape like u1[10, 10], or a Record"
                )
            if name in cls.__dict__:
                default = cls.__dict__[name]
                if isinstance(default, bounded):
                    ranges[name], default = default, default.default
                defaults[name] = default
        cls.dtype = np.dtype(fields, align=True) if fields else _EMPTY_DTYPE
        cls.defaults, cls.ranges = defaults, ranges

    def __new__(cls, **values: Any) -> Any:
        """Return one record as a structured array of shape [1], with `values` in place of `defaults`."""
        row = cls.zeros(1)
        for name, value in (cls.defaults | values).items():
            if name not in (cls.dtype.names or ()):
                raise ValueError(f"unknown field {name!r}; {nearest(name, cls.dtype.names or ())}")
            row[name] = checked_field(name, value, cls.dtype[name])
        cls.check(row)
        return row

    @classmethod
    def check(cls, rows: np.ndarray[Any, Any]) -> None:
        """Raise ValueError naming the first field of these records, [n], that is out of its declared range."""
        for name, limits in cls.ranges.items():
            bad = ~((rows[name] >= limits.low) & (rows[name] <= limits.high))
            if bad.any():
                value = rows[name][bad].flat[0]
                raise ValueError(f"{name}={value}: expected {limits.low:g} to {limits.high:g}")

    @classmethod
    def zeros(cls, n: int) -> np.ndarray[Any, Any]:
        """Return n zeroed records, a structured array of shape [n]."""
        return np.zeros(n, cls.dtype)


def checked_field(name: str, value: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return `value` as an array of `dtype`. Raises ValueError where it does not fit or is not finite."""
    kind = "a number" if dtype.shape == () else f"numbers of shape {dtype.shape}"
    try:
        values = np.asarray(value)
        if values.dtype.kind not in "biuf":
            raise TypeError
        with np.errstate(all="ignore"):  # values that do not fit are reported below
            cast_value = np.broadcast_to(values, dtype.shape).astype(dtype.base)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={value!r}: expected {kind} ({dtype.base})") from None
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name}={value!r}: not finite")
    if not np.all(np.isfinite(cast_value)) or (dtype.base.kind in "iu" and np.any(cast_value != values)):
        raise ValueError(f"{name}={value!r}: does not fit {dtype.base}")
    return cast_value


class WorldState(Record):
    """Base class of every world's State: the random stream (see `rng`) and `t`, the steps of this episode so far."""

    rng_key: u8  # type: ignore[valid-type]
    rng_counter: u8  # type: ignore[valid-type]
    t: i4  # type: ignore[valid-type]


def plain_value(value: Any) -> Any:
    """Return a numpy value as kernels in plain Python read it: an f4, a number, a PlainRecord or a PlainArray."""
    if isinstance(value, np.float32):
        return f4(value)
    if isinstance(value, np.void):
        return PlainRecord(value)
    return PlainArray(value) if isinstance(value, np.ndarray) else value.item()


class PlainRecord:
    """A view of a row of a structured array: attributes are read as Python numbers and written to the row."""

    __slots__ = ("_row",)

    def __init__(self, row: np.void) -> None:
        object.__setattr__(self, "_row", row)

    def __getattr__(self, name: str) -> Any:
        try:
            return plain_value(self._row[name])
        except ValueError:
            names = cast(Any, self._row.dtype.names)
            raise AttributeError(f"no field {name!r}; {nearest(name, names)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._row[name] = value

    def __repr__(self) -> str:
        return f"PlainRecord({', '.join(f'{n}={self._row[n]}' for n in cast(Any, self._row.dtype.names))})"


class PlainArray:
    """A view of an array whose elements are read as Python numbers; slices are views, too."""

    __slots__ = ("_array",)

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __getitem__(self, index: Any) -> Any:
        return plain_value(self._array[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._array[index] = value

    def __len__(self) -> int:
        return len(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self._array, dtype=dtype) if copy else np.asarray(self._array, dtype=dtype)

    def __repr__(self) -> str:
        return f"PlainArray({self._array!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the array's shape, as in compiled code."""
        return tuple(self._array.shape)
