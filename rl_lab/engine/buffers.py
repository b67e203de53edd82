"""This module has the table of a batch's arrays, and the numbers that the engine and its compiled loops agree on.

The classes `EnvBuffers` and `BatchBuffers` are the table: one row for each array, with shape, dtype and meaning.
`allocate` makes the arrays, `arrays_of` lists those that snapshots save, `describe` writes the documentation.

Compiled code reaches a batch through one int64 array, the header: its size, settings such as the horizon, and the
address of each array. So a call passes one integer instead of twenty arrays. In compiled loops, and in plain Python, a
batch is a `View`, a NamedTuple with a field for each setting and array (see `batch_view`).

Nothing here keeps state. The constants are used by batch.py, by all templates and by the compiled learners.
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

SAME_STEP, NEXT_STEP, DISABLED = 0, 1, 2  # the setting `mode`: Gymnasium's AutoresetMode
REFUSE, FORFEIT, NOOP = 0, 1, 2  # the setting `illegal`: what an illegal action leads to
# Faults. A loop's outcome is the number of episodes that ended or, below 0, -(1 + FAULTS * world + fault).
BAD_ACTION, BAD_REWARD, BAD_OBSERVATION, RAISED, FAULTS = range(5)
# Bits of a world's event in one step: its episode ended, by itself or by the horizon; it had ended before; its reward
# or its observation is not finite.
TERMINATED, TRUNCATED, ALREADY_DONE, BAD_REWARD_BIT, BAD_OBSERVATION_BIT = 1, 2, 4, 8, 16
# Positions in the header, int64. CHECK and STEP hold the addresses of the world's `check_range` and `step_range`;
# BLOCK_SIZE is the number of worlds that are stepped together; from FIRST_POINTER on there are the addresses of the
# arrays, in the order of the table.
NUM_ENVS, MODE, HORIZON, NUM_PARAMS, ILLEGAL, CHECK, STEP, BLOCK_SIZE, FIRST_POINTER = range(9)


@dataclass(frozen=True)
class BufferSpec:
    """The description of one array of a batch: a row of the table.

    Attributes:
        shape: symbols: N worlds, P records of Params (1 or N), A agents, and the world's own shapes "observation",
            "action", "mask" and "log".
        dtype: numpy's name of a dtype, or "state", "params", "observation" or "action" for the world's own; compiled
            code sees bool as uint8.
        meaning: one line of documentation.
        is_in_header: True if compiled code uses the array.
        is_saved: True if snapshots have it.
        initial: the first value of its elements.
    """

    shape: tuple[str, ...]
    dtype: str
    meaning: str
    is_in_header: bool = True
    is_saved: bool = True
    initial: int = 0


def buffer_spec(shape: str, dtype: str, meaning: str, **options: Any) -> Any:
    """Return a row of the table, typed as the array that a batch has in its place."""
    return BufferSpec(tuple(shape.split()), dtype, meaning, **options)


class EnvBuffers:
    """The rows of the arrays that every `BatchedEnv` has: an attribute is a row here and an array in an environment."""

    actions: Array = buffer_spec("N A action", "action", "written by the caller", is_saved=False)
    observations: Array = buffer_spec("N A observation", "observation", "valid after reset and step")
    rewards: Array = buffer_spec("N A", "float32", "of the last step")
    terminated: Array = buffer_spec("N", "bool", "the world's episode came to its end by itself")
    truncated: Array = buffer_spec(
        "N", "bool", "the horizon ended it; both can hold at once, as in Gymnasium's TimeLimit"
    )
    done: Array = buffer_spec("N", "bool", "the episode ended in this step or, where worlds do not reset, earlier")
    final_observations: Array = buffer_spec(
        "N A observation",
        "observation",
        "a row is valid where its world ended in this step (same-step mode)",
        is_saved=False,
    )
    running_returns: Array = buffer_spec("N A", "float64", "rewards of the current episode, summed so far")
    episode_returns: Array = buffer_spec("N A", "float64", "of the last finished episode")
    episode_lengths: Array = buffer_spec("N", "int32", "steps of the last finished episode")
    action_mask: Array = buffer_spec(
        "N A mask", "uint8", "actions that each agent may take next, where the world is `has_action_mask`; else 0"
    )
    acting: Array = buffer_spec(
        "N A", "bool", "agents that act in the next step; actions of the others are ignored", initial=1
    )
    left_episode: Array = buffer_spec(
        "N A", "bool", "agents that left their episode in this step, while it may go on for others"
    )
    paused: Array = buffer_spec(
        "N", "bool", "worlds of several agents that the next step skips; written by the caller", is_saved=False
    )


class BatchBuffers(EnvBuffers):
    """The table of a batch's arrays: an attribute is a row here and, in a batch, the array that the row describes."""

    states: Array = buffer_spec("N", "state", "the worlds' State records")
    params: Array = buffer_spec("P", "params", "one record for all worlds, or one for each")
    log_totals: Array = buffer_spec("N log", "float64", "finished episodes, and the K log fields summed over them")
    illegal_actions: Array = buffer_spec(
        "N A", "bool", 'agents whose action was illegal in this step, with `illegal` "forfeit" or "noop"'
    )
    reseed: Array = buffer_spec(
        "N", "bool", "worlds that take a new random stream at their next reset", is_in_header=False
    )
    pending_keys: Array = buffer_spec("N", "uint64", "seed of that stream", is_in_header=False)
    pending_counters: Array = buffer_spec("N", "uint64", "where in the seed's numbers it begins", is_in_header=False)


ENV_BUFFERS: dict[str, BufferSpec] = {
    name: spec for name, spec in vars(EnvBuffers).items() if isinstance(spec, BufferSpec)
}
# What a step or reset writes for each agent.
AGENT_OUTPUTS = tuple(name for name, spec in ENV_BUFFERS.items() if spec.shape[:2] == ("N", "A") and name != "actions")
# The order is that of the header's addresses.
BUFFERS = {name: spec for name, spec in vars(BatchBuffers).items() if isinstance(spec, BufferSpec)} | ENV_BUFFERS
HEADER_SLOTS = {
    name: FIRST_POINTER + k for k, name in enumerate(name for name, spec in BUFFERS.items() if spec.is_in_header)
}  # where in the header an array's address is
HEADER_SIZE = FIRST_POINTER + len(HEADER_SLOTS)
# Compiled code sees these arrays once more, in another shape: states as 8-byte words, observations as rows of numbers.
RESHAPED_BUFFERS = {
    "state_words": ("states", BufferSpec(("N", "words"), "float64", "")),
    "flat_observations": ("observations", BufferSpec(("N", "A", "numbers"), "observation", "")),
    "flat_final_observations": ("final_observations", BufferSpec(("N", "A", "numbers"), "observation", "")),
}
HEADER_SETTINGS = {"mode": MODE, "horizon": HORIZON, "illegal": ILLEGAL}

# A batch as its loops see it: settings of the header, its arrays, and the arrays of another shape.
View = namedtuple("View", (*HEADER_SETTINGS, *HEADER_SLOTS, *RESHAPED_BUFFERS))  # type: ignore[misc]  # noqa: PYI024


@dataclass(frozen=True)
class Layout:
    """The shapes and dtypes of one world, for which the table has symbols."""

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

    def shape(self, spec: BufferSpec) -> tuple[int, ...]:
        """Return an array's shape without its first axis."""
        return tuple(size for symbol in spec.shape[1:] for size in self.shapes[symbol])

    def dtype(self, spec: BufferSpec) -> np.dtype[Any]:
        """Return an array's dtype."""
        return self.dtypes[spec.dtype] if spec.dtype in self.dtypes else np.dtype(spec.dtype)


def allocate_env(spec: EnvSpec, num_envs: int) -> dict[str, Array]:
    """Return the arrays that every `BatchedEnv` has, by name, for an environment of this description."""
    layout = Layout.of_spec(spec)
    return {
        name: np.full((num_envs, *layout.shape(spec)), spec.initial, layout.dtype(spec))
        for name, spec in ENV_BUFFERS.items()
    }


def allocate(world: World, num_envs: int, num_params: int, capacity: int) -> dict[str, Array]:
    """Return the arrays of a batch by name; behind each lies memory for `capacity` worlds."""
    layout, arrays = Layout.of(world), {}
    for name, spec in BUFFERS.items():
        rows = num_params if spec.shape[0] == "P" else num_envs
        padded = rows if spec.shape[0] == "P" and rows == 1 else capacity
        memory = np.zeros((padded, *layout.shape(spec)), layout.dtype(spec))
        if spec.initial:
            memory[:rows] = spec.initial
        arrays[name] = memory[:rows]
    return arrays


def check_memory(world: World, num_envs: int) -> None:
    """Raise ValueError where a batch does not fit into the machine: memory that is zeroed lazily fails much later."""
    agents, numbers = len(world.agents), int(np.prod(world.observation.shape))
    spec = (
        2 * numbers * world.observation.low.dtype.itemsize + world.mask_size + 8 * int(np.prod(world.action_shape)) + 32
    )
    needed_memory = num_envs * (world.State.dtype.itemsize + agents * spec)
    total_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed_memory > total_memory:
        raise ValueError(
            f"worlds={num_envs}: {world.name} would need {needed_memory / 2**30:.0f} GiB of {total_memory / 2**30:.0f}"
        )


def arrays_of(batch: BatchBuffers, saved_only: bool = False) -> dict[str, Array]:
    """Return a batch's arrays, or those that snapshots have, by name; records are rows of bytes, uint8 [n, bytes]."""
    arrays = {name: getattr(batch, name) for name, spec in BUFFERS.items() if spec.is_saved or not saved_only}
    records = {name: array for name, array in arrays.items() if array.dtype.names is not None}
    return arrays | {name: array.view(np.uint8).reshape(len(array), -1) for name, array in records.items()}


def describe() -> str:
    """Return the table as text: a line for each array that compiled code and callers share."""
    lines = []
    for name, spec in BUFFERS.items():
        if spec.is_in_header:
            lines.append(f"    {name:<19} {spec.dtype} [{', '.join(spec.shape)}]: {spec.meaning}")
    return "\n".join(lines)


def build_header(batch: BatchBuffers, settings: dict[str, int], block_size: int) -> Array:
    """Return the header, int64 [HEADER_SIZE], of a batch's arrays, which are not to move; CHECK and STEP are 0."""
    header = np.zeros(HEADER_SIZE, np.int64)
    header[NUM_ENVS], header[NUM_PARAMS], header[BLOCK_SIZE] = len(batch.states), len(batch.params), block_size
    for name, slot in HEADER_SETTINGS.items():
        header[slot] = settings[name]
    for name, slot in HEADER_SLOTS.items():
        header[slot] = getattr(batch, name).ctypes.data
    return header
