"""Episodes in Minari's format on disk: a folder for each episode, with an Arrow file and metadata in JSON.

An episode of T transitions has T + 1 rows, because it has T + 1 observations. The last row's action and reward are 0.
Minari's package reads the folders that are written here, and those that it writes are read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core.errors import UsageError
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import checked_int, checked_type, read_json
from rl_lab.datasets import metadata
from rl_lab.datasets.columns import NO_SEED, Array, Columns, ContentHash, concatenate, step_rows
from rl_lab.datasets.metadata import Metadata
from rl_lab.datasets.requirement import pyarrow

_LARGEST_FILE = 2**20  # bytes of the metadata of an episode
_EPISODES_AT_ONCE = 512  # that `read_episodes` returns together


class MinariWriter:
    """A writer of episodes. The folder is a data set when `close` has written its metadata."""

    def __init__(self, folder: Path, description: Metadata) -> None:
        self._arrow = pyarrow()
        self._folder, self._description = folder, description
        self._hash = ContentHash()
        self.num_episodes = self.num_steps = 0
        folder.mkdir(parents=True)

    def write(self, columns: Columns) -> None:
        """Write episodes after those written so far. Raises OSError."""
        arrow = self._arrow
        batch = record_batch(columns, isinstance(self._description.action_space, Discrete))
        firsts = (columns.offsets + np.arange(len(columns.lengths) + 1)).tolist()
        lengths, rows = columns.lengths.tolist(), _episode_rows(columns)
        new_file, schema, folder = arrow.ipc.new_file, batch.schema, str(self._folder)
        for index, (length, row) in enumerate(zip(lengths, rows, strict=True)):
            number = self.num_episodes + index
            episode = f"{folder}/{number}"
            os.mkdir(episode)
            content = arrow.BufferOutputStream()  # written at once: pyarrow would make a system call for each column
            with new_file(content, schema) as file:
                file.write_batch(batch.slice(firsts[index], length + 1))
            with open(f"{episode}/part-0.arrow", "wb") as data:
                data.write(content.getvalue())
            with open(f"{episode}/{metadata.FILE}", "w") as text:
                text.write(f'{{"id": {number}, "total_steps": {length}, {row}}}')
        self.num_episodes += len(lengths)
        self.num_steps += sum(lengths)
        self._hash.update(columns)

    def close(self) -> Metadata:
        """Write the metadata, and return them. Raises OSError."""
        finished = dataclasses.replace(
            self._description,
            num_episodes=self.num_episodes,
            num_steps=self.num_steps,
            content_hash=self._hash.hexdigest(),
        )
        atomic_write_bytes(self._folder / metadata.FILE, finished.to_json().encode())
        return finished


def _episode_rows(columns: Columns) -> list[str]:
    """Return what an episode's metadata have besides its number and length, as parts of a JSON object."""
    names = {
        "seed": columns.seeds,
        "agent_index": columns.agent_indices,
        "group_id": columns.group_ids,
        "policy_index": columns.policy_indices,
    }
    values = zip(*(array.tolist() for array in names.values()), strict=True)
    text = ", ".join(f'"{name}": {{}}' for name in names)
    return [text.format("null" if seed == NO_SEED else seed, *others) for seed, *others in values]


def record_batch(columns: Columns, is_discrete: bool) -> Any:
    """Return the episodes as one Arrow record batch of S + E rows, with Minari's names of columns."""
    arrow = pyarrow()
    rows = step_rows(columns.lengths)
    total = len(rows) + len(columns.lengths)
    finals = np.cumsum(columns.lengths + 1) - 1

    def spread(values: Array, last: Array | None = None) -> Array:
        spaced = np.zeros((total, *values.shape[1:]), values.dtype)
        spaced[rows] = values
        if last is not None:
            spaced[finals] = last
        return spaced

    def fixed(values: Array) -> Any:
        flat = values.reshape(total, -1)
        kind = arrow.list_(arrow.from_numpy_dtype(values.dtype), flat.shape[1])
        return arrow.FixedSizeListArray.from_arrays(arrow.array(flat.reshape(-1)), type=kind)

    actions = spread(columns.actions)
    arrays = {
        "observations": fixed(spread(columns.observations, columns.final_observations)),
        "actions": arrow.array(actions) if is_discrete else fixed(actions),
        "rewards": arrow.array(spread(columns.rewards)),
        "terminations": arrow.array(spread(columns.terminated)),
        "truncations": arrow.array(spread(columns.truncated)),
    }
    if columns.action_masks.shape[1]:
        masks = fixed(spread(columns.action_masks))
        shape = {"shape": str(columns.action_masks.shape[1])}  # as Minari's reader expects it
        arrays["infos"] = arrow.StructArray.from_arrays(
            [masks], fields=[arrow.field("action_mask", masks.type, metadata=shape)]
        )
    return arrow.record_batch(arrays)


def read_episodes(folder: Path, description: Metadata) -> Iterator[Columns]:
    """Yield the episodes of a data set in order, several at a time.

    Raises UsageError, which names the file, for files that are missing, damaged or do not fit the metadata.
    """
    pending: list[Columns] = []
    for number in range(description.num_episodes):
        pending.append(_read_episode(folder / str(number), number, description))
        if len(pending) == _EPISODES_AT_ONCE:
            yield concatenate(pending)
            pending = []
    if pending:
        yield concatenate(pending)


def _read_episode(folder: Path, number: int, description: Metadata) -> Columns:
    suffix = "parquet" if description.data_format == "parquet" else "arrow"
    files = sorted(file for file in folder.glob(f"*.{suffix}") if file.is_file())
    if not files:
        raise UsageError(f"{folder}: episode {number} is missing: there is no file *.{suffix}")
    file = files[0]
    try:
        if len(files) > 1:
            raise ValueError(f"{folder} has {len(files)} files; expected one for each episode")
        table = _read_table(file, suffix)
        own = checked_type(read_json(folder / metadata.FILE, _LARGEST_FILE), metadata.FILE, dict)
        return _columns(table, own, number, description)
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, MemoryError, NotImplementedError) as error:  # pyarrow's own are of these
        raise UsageError(f"{file}: damaged, or not an episode of this data set: {error}") from None


def _read_table(file: Path, suffix: str) -> Any:
    arrow = pyarrow()
    if suffix == "parquet":
        from pyarrow import parquet

        return parquet.read_table(file)
    with arrow.OSFile(str(file)) as source:
        table = arrow.ipc.open_file(source).read_all()
    table.validate(full=True)
    return table


def _columns(table: Any, own: dict[str, Any], number: int, description: Metadata) -> Columns:
    """Return one episode. Raises ValueError where a column is missing or does not fit."""
    steps = table.num_rows - 1
    if steps < 1:
        raise ValueError(f"it has {table.num_rows} rows; expected a row for each observation, at least 2")
    layout = description.layout()
    observations = _column(table, "observations", *layout["observations"])
    actions = _column(table, "actions", *layout["actions"])[:-1]
    rewards = _column(table, "rewards", *layout["rewards"])[:-1]
    flags = [_column(table, name, *layout["terminated"])[:-1] for name in ("terminations", "truncations")]
    for name, values in (("observations", observations), ("actions", actions), ("rewards", rewards)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name} has numbers that are not finite")
    if isinstance(description.action_space, Discrete):
        count = int(description.action_space.n)
        if not 0 <= actions.min() <= actions.max() < count:
            raise ValueError(f"actions are {actions.min()} to {actions.max()}; expected 0 to {count - 1}")
    if flags[0][:-1].any() or flags[1][:-1].any():
        raise ValueError("it ends before its last row")
    masks = np.zeros((steps, 0), np.uint8)
    if description.mask_size:
        infos = table.column("infos").combine_chunks() if "infos" in table.column_names else None
        if infos is None or infos.type.get_field_index("action_mask") < 0:
            raise ValueError("infos has no action_mask")
        masks = _values(infos.field("action_mask"), "action_mask", *layout["action_masks"])[:-1]
    seed = own.get("seed")
    indices = [
        checked_int(NO_SEED if seed is None else seed, "seed", NO_SEED),
        checked_int(own.get("agent_index", 0), "agent_index"),
        checked_int(own.get("group_id", number), "group_id"),
        checked_int(own.get("policy_index", 0), "policy_index"),
    ]
    per_episode = [np.array([value]) for value in (steps, *indices)]
    length, *others = per_episode
    return Columns(observations[:-1], actions, rewards, flags[0], flags[1], masks, observations[-1:], length, *others)


def _column(table: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if name not in table.column_names:
        raise ValueError(f"column {name} is missing")
    return _values(table.column(name).combine_chunks(), name, shape, dtype)


def _values(column: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an Arrow array as an array [rows, *shape] of this dtype. Raises ValueError where it has another shape."""
    arrow = pyarrow()
    if isinstance(column, arrow.ChunkedArray):  # of a table without rows, or from an old version of pyarrow
        column = arrow.concat_arrays(column.chunks)
    if column.null_count:
        raise ValueError(f"{name} has {column.null_count} empty values")
    rows = len(column)
    if arrow.types.is_fixed_size_list(column.type) or arrow.types.is_list(column.type):
        column = column.flatten()
    numbers = column.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "biuf" or (dtype.kind in "biu" and numbers.dtype.kind == "f"):
        raise ValueError(f"{name} has values of type {column.type}; expected {dtype}")
    if numbers.size != rows * int(np.prod(shape)):
        raise ValueError(f"{name} has {numbers.size} numbers in {rows} rows; expected {list(shape)} in each")
    return np.asarray(numbers.reshape(rows, *shape)).astype(dtype, copy=False)
