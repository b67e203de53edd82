"""This module has the part of `Batch` that runs no compiled code: seeds, states, snapshots, copies and results.

`BatchArrays` is the base class of `Batch`. Its methods read and write the arrays of the batch, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_lab.core.rng import STREAM_SHIFT
from rl_lab.core.world import Array, World
from rl_lab.engine import buffers

NUM_STREAMS = 2**24  # of a seed: see rng.STREAM_SHIFT
NUM_SEEDS = 2**32  # a seed is the 32-bit key of the random generator; evaluation uses the upper ones, see evaluate.py


class BatchArrays(buffers.BatchBuffers):
    """The methods of `Batch` that only read and write its arrays."""

    world: World
    num_envs: int
    plain: bool
    restores_exactly = True  # a restored batch continues bit for bit
    _arguments: dict[str, Any]  # of the constructor, by which a copy is made
    _failure: str  # the message of the last NonFiniteError, "" after a reset
    _failed_world: int
    _calls: int  # of random_actions
    _capacity: int  # rows of the arrays, of which there are whole blocks
    _header: Array

    def observe(self, i: int | None = None) -> Array:  # noqa: D102
        raise NotImplementedError

    def seed(self, seed: int | Array, first: int = 0, mask: Array | None = None) -> None:
        """Set the random streams that the worlds use from their next reset on.

        Args:
            seed: one seed, of which world i uses stream `first + i`, or int [N], a seed for each world, which uses its
                stream 0.
            first: the stream of world 0, where there is one seed.
            mask: bool [N], the worlds to seed; None for all.

        Raises:
            ValueError: a seed or stream is out of range.
        """
        seeds = np.asarray(seed)
        if (
            seeds.dtype.kind not in "iu"
            or seeds.shape not in ((), (self.num_envs,))
            or np.any((seeds < 0) | (seeds >= NUM_SEEDS))
        ):
            raise ValueError(f"seed={seed!r}: expected an integer in 0..2**32-1, or {self.num_envs} of them")
        if not 0 <= first <= NUM_STREAMS - self.num_envs:
            raise ValueError(f"first={first}: expected 0 to {NUM_STREAMS - self.num_envs} for {self.num_envs} worlds")
        streams = (
            np.arange(first, first + self.num_envs, dtype=np.uint64)
            if seeds.ndim == 0
            else np.zeros(self.num_envs, np.uint64)
        )
        selected = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        self.pending_keys[selected] = np.broadcast_to(seeds, self.num_envs)[selected]
        self.pending_counters[selected] = (streams << STREAM_SHIFT)[selected]
        self.reseed |= selected

    def elapsed_steps(self, i: int) -> int:
        """Return how many steps world i's episode has had."""
        return int(self.states["t"][i])

    def state(self, i: int) -> bytes:
        """Return world i's state, random stream included, as bytes."""
        return bytes(self.states[i].tobytes())

    def set_state(self, i: int, state: bytes) -> None:
        """Put world i into a state that `state` returned, and write its observations.

        `running_returns` is not part of a state and keeps its values.

        Raises:
            ValueError: the bytes are no state of this world.
        """
        if len(state) != self.states.dtype.itemsize:
            raise ValueError(f"state of {len(state)} bytes: {self.world.name}'s has {self.states.dtype.itemsize}")
        record = np.frombuffer(state, self.states.dtype)
        self.world.State.check(record)
        self.states[i] = record[0]
        self.done[i] = self.terminated[i] = self.truncated[i] = False
        self.left_episode[i] = self.illegal_actions[i] = False
        self.reseed[i] = False
        self.observe(i)

    def snapshot(self) -> dict[str, Array]:
        """Return copies of all arrays that `restore` needs to continue exactly, by name."""
        return {name: np.array(array) for name, array in buffers.arrays_of(self, saved_only=True).items()}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Continue from a `snapshot` of a batch of the same world and size.

        Raises:
            ValueError: the snapshot does not fit; the message names the array.
        """
        for name, array in buffers.arrays_of(self, saved_only=True).items():
            saved = snapshot.get(name)
            if saved is None or saved.dtype != array.dtype or saved.shape != array.shape:
                raise ValueError(f"snapshot of another batch: {name} does not fit {self.world.name} x {self.num_envs}")
        # Kernels use fields of the state as indices, so their declared ranges are checked before compiled code runs.
        self.world.State.check(snapshot["states"].reshape(-1).view(self.states.dtype))
        self.world.Params.check(snapshot["params"].reshape(-1).view(self.params.dtype))
        for name, array in buffers.arrays_of(self, saved_only=True).items():
            array[...] = snapshot[name]
        self._failure = ""

    def new_observation_buffer(self) -> None:
        """Replace `observations` by a new array, whose numbers are undefined until a step, a reset or `observe`."""
        shape, dtype = self.observations.shape[1:], self.observations.dtype
        self.bind_observations(np.empty((self._capacity, *shape), dtype)[: self.num_envs])

    def bind_observations(self, observations: Array) -> None:
        """Have the batch write observations into this array. Raises ValueError for a batch with plain=True."""
        if self.plain:
            raise ValueError("a batch with plain=True cannot replace its observations")
        self.observations = observations
        self._header[buffers.HEADER_SLOTS["observations"]] = observations.__array_interface__["data"][0]

    def partition(self, max_threads: int) -> Array:
        """Return a division of the worlds between at most `max_threads` threads, int64 [threads + 1].

        Thread k steps worlds partition[k] to partition[k + 1] - 1. Worlds that are stepped as a block have one thread.
        """
        block_size = int(self._header[buffers.BLOCK_SIZE])
        blocks = -(-self.num_envs // block_size)
        parts = min(max_threads, blocks)
        return np.minimum(np.arange(parts + 1) * blocks // parts * block_size, self.num_envs)

    @property
    def agent_terminated(self) -> Array:
        """True where an agent's episode terminated in this step, bool [N, A]: the world's did, or the agent left it."""
        return np.asarray(self.terminated[:, None] | self.left_episode)

    @property
    def agent_truncated(self) -> Array:
        """True where an agent's episode was truncated in this step, bool [N, A]; False for agents that left in it."""
        return np.asarray(self.truncated[:, None] & ~self.left_episode)

    def drain_log(self) -> dict[str, float]:
        """Return the number of episodes that ended since the last call, and the mean of each log field over them."""
        means = mean_log(self.log_totals, self.world.log_names)
        self.log_totals[:] = 0.0
        return means

    def __reduce__(self) -> tuple[Any, ...]:
        # The header has the arrays' addresses, so a copy needs arrays and a header of its own.
        arrays = {name: np.array(array) for name, array in buffers.arrays_of(self).items()}
        attributes = {name: getattr(self, name) for name in ("_failure", "_failed_world", "_calls")}
        return _rebuild_batch, (type(self), self.world, self.num_envs, self._arguments, arrays, attributes)


def mean_log(log_totals: Array, names: Sequence[str]) -> dict[str, float]:
    """Return the number of episodes that ended and the mean of each log field over them.

    log_totals: float64 [N, 1 + K], of each environment the number of its episodes, and the sums of K fields over them.
    """
    totals = log_totals.sum(axis=0)
    means = totals[1:] / max(totals[0], 1.0)
    return {"episodes": float(totals[0]), **dict(zip(names, means.tolist(), strict=True))}


def _rebuild_batch(
    batch_class: Any,
    world: World,
    num_envs: int,
    arguments: dict[str, Any],
    arrays: dict[str, Array],
    attributes: dict[str, Any],
) -> Any:
    """Return a batch, of class `batch_class`, that continues as the one that the arrays were copied from."""
    params = arrays["params"].reshape(-1).view(world.Params.dtype)
    batch = batch_class(world, num_envs, params, **arguments)
    for name, array in buffers.arrays_of(batch).items():
        array[...] = arrays[name]
    vars(batch).update(attributes)
    return batch
