"""The arrays of a batch, in one table, and what the engine and its compiled loops agree on: modes, faults, the header.

The header is an int64 array through which compiled code reaches a batch: settings, then the address of each array of
the table. `View` has a field for each of these arrays. Batch allocates, saves and documents its arrays by the table.
"""

from __future__ import annotations

import os
from collections import namedtuple
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.core.agent_spaces import action_dtype_of, mask_size_of

if TYPE_CHECKING:
    from rl_lab.core.protocols import EnvSpec
    from rl_lab.core.world import Array, World

SAME_STEP, NEXT_STEP, DISABLED = 0, 1, 2
REFUSE, FORFEIT, NOOP = 0, 1, 2  # what becomes of an illegal action
# A loop's outcome is the number of episodes that ended or, below 0, -(1 + FAULTS * world + fault).
BAD_ACTION, BAD_REWARD, BAD_OBSERVATION, RAISED, FAULTS = range(5)
# What a step leaves to be settled of a world, as bits: it ended, by itself or by the horizon; it was over before; its
# reward or its observation is not finite.
TERMINATED, TRUNCATED, ALREADY_DONE, BAD_REWARD_BIT, BAD_OBSERVATION_BIT = 1, 2, 4, 8, 16
# Positions in the header. CHECK and STEP are addresses of the world's `check_range` and `step_range`; BLOCK_SIZE worlds
# are stepped together; the addresses of arrays begin at FIRST_POINTER, in the order of the table.
N, MODE, HORIZON, N_PARAMS, ILLEGAL, CHECK, STEP, BLOCK_SIZE, FIRST_POINTER = range(9)


@dataclass(frozen=True)
class Buffer:
    """One array of a batch.

    `shape` has symbols: N worlds, P records of Params (1 or N), A agents, and the world's own shapes "observation",
    "action", "mask" and "log". `dtype` is numpy's name of one, or "state", "params", "observation" or "action" for the
    world's own; compiled code sees bool as uint8. `is_in_header`: compiled code uses the array. `is_saved`: snapshots
    have it. `initial` is what its elements are at first.
    """

    shape: tuple[str, ...]
    dtype: str
    meaning: str
    is_in_header: bool = True
    is_saved: bool = True
    initial: int = 0


def _buffer(shape: str, dtype: str, meaning: str, **options: Any) -> Any:
    """Return a row of the table, typed as the array that a batch has in its place."""
    return Buffer(tuple(shape.split()), dtype, meaning, **options)


class EnvBuffers:
    """The rows of the arrays that every `BatchedEnv` has: an attribute is a row here and an array in an environment."""

    actions: Array = _buffer("N A action", "action", "written by the caller", is_saved=False)
    observations: Array = _buffer("N A observation", "observation", "valid after reset and step")
    rewards: Array = _buffer("N A", "float32", "of the last step")
    terminated: Array = _buffer("N", "bool", "the world's episode came to its end by itself")
    truncated: Array = _buffer("N", "bool", "the horizon ended it; both can hold at once, as in Gymnasium's TimeLimit")
    done: Array = _buffer("N", "bool", "the episode ended in this step or, where worlds do not reset, earlier")
    final_observations: Array = _buffer(
        "N A observation",
        "observation",
        "a row is valid where its world ended in this step (same-step mode)",
        is_saved=False,
    )
    running_returns: Array = _buffer("N A", "float64", "rewards of the current episode, summed so far")
    episode_returns: Array = _buffer("N A", "float64", "of the last finished episode")
    episode_lengths: Array = _buffer("N", "int32", "steps of the last finished episode")
    action_mask: Array = _buffer(
        "N A mask", "uint8", "actions that each agent may take next, where the world is `has_action_mask`; else 0"
    )
    acting: Array = _buffer(
        "N A", "bool", "agents that act in the next step; actions of the others are ignored", initial=1
    )
    left_episode: Array = _buffer(
        "N A", "bool", "agents that left their episode in this step, while it may go on for others"
    )
    paused: Array = _buffer(
        "N", "bool", "worlds of several agents that the next step skips; written by the caller", is_saved=False
    )


class BatchBuffers(EnvBuffers):
    """The table of a batch's arrays: an attribute is a row here and, in a batch, the array that the row describes."""

    states: Array = _buffer("N", "state", "the worlds' State records")
    params: Array = _buffer("P", "params", "one record for all worlds, or one for each")
    log_totals: Array = _buffer("N log", "float64", "finished episodes, and the K log fields summed over them")
    illegal_actions: Array = _buffer(
        "N A", "bool", 'agents whose action was illegal in this step, with `illegal` "forfeit" or "noop"'
    )
    reseed: Array = _buffer("N", "bool", "worlds that take a new random stream at their next reset", is_in_header=False)
    pending_keys: Array = _buffer("N", "uint64", "seed of that stream", is_in_header=False)
    pending_counters: Array = _buffer("N", "uint64", "where in the seed's numbers it begins", is_in_header=False)


ENV_BUFFERS: dict[str, Buffer] = {name: row for name, row in vars(EnvBuffers).items() if isinstance(row, Buffer)}
# What a step or reset writes for each agent.
AGENT_OUTPUTS = tuple(name for name, row in ENV_BUFFERS.items() if row.shape[:2] == ("N", "A") and name != "actions")
# The order is that of the header's addresses.
BUFFERS = {name: row for name, row in vars(BatchBuffers).items() if isinstance(row, Buffer)} | ENV_BUFFERS
SLOTS = {
    name: FIRST_POINTER + k for k, name in enumerate(name for name, row in BUFFERS.items() if row.is_in_header)
}  # where in the header an array's address is
HEADER_SIZE = FIRST_POINTER + len(SLOTS)
# Compiled code sees these arrays once more, in another shape: states as 8-byte words, observations as rows of numbers.
RESHAPED = {
    "state_words": ("states", Buffer(("N", "words"), "float64", "")),
    "flat_observations": ("observations", Buffer(("N", "A", "numbers"), "observation", "")),
    "flat_final_observations": ("final_observations", Buffer(("N", "A", "numbers"), "observation", "")),
}
SETTINGS = {"mode": MODE, "horizon": HORIZON, "illegal": ILLEGAL}

# A batch as its loops see it: settings of the header, its arrays, and the arrays of another shape.
View = namedtuple("View", (*SETTINGS, *SLOTS, *RESHAPED))  # type: ignore[misc]  # noqa: PYI024


@dataclass(frozen=True)
class Layout:
    """What the symbols of the table mean for one world."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]

    @classmethod
    def of_spec(cls, spec: EnvSpec) -> Layout:
        """Return the layout of the arrays that every environment of this description has."""
        shapes: dict[str, tuple[int, ...]] = {
            "A": (len(spec.agents),),
            "observation": spec.observation.shape,
            "action": spec.action.shape or (),
            "mask": (mask_size_of(spec.action, spec.has_action_mask),),
        }
        return cls(shapes, {"observation": spec.observation.low.dtype, "action": action_dtype_of(spec.action)})

    @classmethod
    def of(cls, world: World) -> Layout:
        """Return the layout of a world's batches."""
        common = cls.of_spec(world)
        shapes = {
            "log": (1 + len(world.log_names),),
            "words": (world.State.dtype.itemsize // 8,),
            "numbers": (int(np.prod(world.observation.shape)),),
        }
        records = {"state": world.State.dtype, "params": world.Params.dtype}
        return cls(common.shapes | shapes, common.dtypes | records)

    def shape(self, row: Buffer) -> tuple[int, ...]:
        """Return an array's shape without its first axis."""
        return tuple(size for symbol in row.shape[1:] for size in self.shapes[symbol])

    def dtype(self, row: Buffer) -> np.dtype[Any]:
        """Return an array's dtype."""
        return self.dtypes[row.dtype] if row.dtype in self.dtypes else np.dtype(row.dtype)


def allocate_env(spec: EnvSpec, num_envs: int) -> dict[str, Array]:
    """Return the arrays that every `BatchedEnv` has, by name, for an environment of this description."""
    layout = Layout.of_spec(spec)
    return {
        name: np.full((num_envs, *layout.shape(row)), row.initial, layout.dtype(row))
        for name, row in ENV_BUFFERS.items()
    }


def allocate(world: World, num_envs: int, num_params: int, capacity: int) -> dict[str, Array]:
    """Return the arrays of a batch by name; behind each lies memory for `capacity` worlds."""
    layout, arrays = Layout.of(world), {}
    for name, row in BUFFERS.items():
        rows = num_params if row.shape[0] == "P" else num_envs
        padded = rows if row.shape[0] == "P" and rows == 1 else capacity
        memory = np.zeros((padded, *layout.shape(row)), layout.dtype(row))
        if row.initial:
            memory[:rows] = row.initial
        arrays[name] = memory[:rows]
    return arrays


def check_memory(world: World, num_envs: int) -> None:
    """Raise ValueError where a batch does not fit into the machine: memory that is zeroed lazily fails much later."""
    agents, numbers = len(world.agents), int(np.prod(world.observation.shape))
    row = (
        2 * numbers * world.observation.low.dtype.itemsize + world.mask_size + 8 * int(np.prod(world.action_shape)) + 32
    )
    needed = num_envs * (world.State.dtype.itemsize + agents * row)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(f"worlds={num_envs}: {world.name} would need {needed / 2**30:.0f} GiB of {there / 2**30:.0f}")


def arrays_of(batch: BatchBuffers, saved_only: bool = False) -> dict[str, Array]:
    """Return a batch's arrays, or those that snapshots have, by name; records are rows of bytes, uint8 [n, bytes]."""
    arrays = {name: getattr(batch, name) for name, row in BUFFERS.items() if row.is_saved or not saved_only}
    records = {name: array for name, array in arrays.items() if array.dtype.names is not None}
    return arrays | {name: array.view(np.uint8).reshape(len(array), -1) for name, array in records.items()}


def describe() -> str:
    """Return the table as text: a line for each array that compiled code and callers share."""
    lines = []
    for name, row in BUFFERS.items():
        if row.is_in_header:
            lines.append(f"    {name:<19} {row.dtype} [{', '.join(row.shape)}]: {row.meaning}")
    return "\n".join(lines)


def build_header(batch: BatchBuffers, settings: dict[str, int], block_size: int) -> Array:
    """Return the header, int64 [HEADER_SIZE], of a batch's arrays, which are not to move; CHECK and STEP are 0."""
    header = np.zeros(HEADER_SIZE, np.int64)
    header[N], header[N_PARAMS], header[BLOCK_SIZE] = len(batch.states), len(batch.params), block_size
    for name, slot in SETTINGS.items():
        header[slot] = settings[name]
    for name, slot in SLOTS.items():
        header[slot] = getattr(batch, name).ctypes.data
    return header
