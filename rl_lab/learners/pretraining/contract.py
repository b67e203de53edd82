"""What a backbone's observations must be: their shape, dtype and bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from rl_lab.core.untrusted import checked_int, checked_list, checked_type

_DTYPES = ("float32", "uint8")
_MAX_NUMBERS = 2**24  # of one observation


@dataclasses.dataclass(frozen=True)
class ObservationContract:
    """The observations that a backbone was made for. `low` and `high` are None where the space has no such bound."""

    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None

    def __str__(self) -> str:
        low, high = ("no bound" if bound is None else f"{bound:g}" for bound in (self.low, self.high))
        return f"{self.dtype} {list(self.shape)} from {low} to {high}"

    def as_json(self) -> dict[str, Any]:
        """Return the contract as data for JSON."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}

    def space(self) -> Box:
        """Return a space with the contract's shape, dtype and bounds."""
        dtype: Any = np.dtype(self.dtype)
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        return Box(low, high, self.shape, dtype)


def contract_of(space: Any) -> ObservationContract:
    """Return the contract of a space. Raises ValueError for a space that no backbone can have."""
    if not isinstance(space, Box) or str(space.dtype) not in _DTYPES:
        raise ValueError(f"a backbone needs arrays of {' or '.join(_DTYPES)} as observations, not {space}")
    low, high = float(space.low.min()), float(space.high.max())
    bounds = (bound if np.isfinite(bound) and abs(bound) < 1e30 else None for bound in (low, high))
    return ObservationContract(tuple(map(int, space.shape)), str(space.dtype), *bounds)


def read_contract(node: Any) -> ObservationContract:
    """Return the contract of data from a file. Raises ValueError or KeyError where it is none."""
    node = checked_type(node, "observation", dict)
    shape = tuple(
        checked_int(side, "observation: shape", 1, _MAX_NUMBERS) for side in checked_list(node["shape"], "shape")
    )
    dtype = checked_type(node["dtype"], "observation: dtype", str)
    if dtype not in _DTYPES or not 1 <= len(shape) <= 4 or int(np.prod(shape)) > _MAX_NUMBERS:
        raise ValueError(f"observation is {dtype:.20} {list(shape)}, which no backbone can have")
    bounds = []
    for name in ("low", "high"):
        value = node[name]
        bounds.append(None if value is None else checked_type(value, f"observation: {name}", float))
    return ObservationContract(shape, dtype, *bounds)


def require_same(own: ObservationContract, offered: ObservationContract, name: str, world: str) -> None:
    """Raise ValueError, with both contracts, where a world's observations are not those of a backbone."""
    if own != offered:
        raise ValueError(f"{name} observes {own}; {world} gives {offered}")
