"""Export of a data set as one Parquet file, for pandas, Polars, DuckDB and others: a row for each transition."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.files import partial
from rl_lab.datasets.columns import Array
from rl_lab.datasets.dataset import Dataset
from rl_lab.datasets.requirement import pyarrow

_ROWS = 2**16  # of a row group


def export(data: Dataset, path: Path) -> None:
    """Write a data set's transitions into a new file; arrays are lists of a fixed size, row by row.

    The columns are episode, step (within its episode), seed, group_id, agent_index, policy, observation, action,
    reward, next_observation, terminated, truncated and, where the world has them, action_mask. Metadata of the file
    have the world's name, the spaces' shapes and the content hash, as JSON under the key `rl_lab`.

    Raises:
        UsageError: pyarrow is missing.
        OSError: the file cannot be written.
    """
    pyarrow()
    from pyarrow import parquet

    description = {
        "world": data.world,
        "observation_shape": list(data.observation_space.shape),
        "action_shape": list(data.action_space.shape or ()),
        "content_hash": data.content_hash,
        "info": data.info,
    }
    tables = _tables(data)
    first = next(tables)
    schema = first.schema.with_metadata({"rl_lab": json.dumps(description)})
    with partial(path) as unfinished:
        with parquet.ParquetWriter(unfinished, schema) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table.cast(schema))
        unfinished.replace(path)


def _tables(data: Dataset) -> Iterator[Any]:
    """Yield the transitions as Arrow tables of at most `_ROWS` rows."""
    arrow = pyarrow()
    policies = np.array(data.policies)
    for begin in range(0, data.num_steps, _ROWS):
        steps = np.arange(begin, min(begin + _ROWS, data.num_steps))
        episodes = data.episode_of(steps)
        columns: dict[str, Array] = {
            "episode": episodes,
            "step": steps - data.episode_offsets[episodes],
            "seed": data.seeds[episodes],
            "group_id": data.group_ids[episodes],
            "agent_index": data.agent_indices[episodes],
            "policy": policies[data.policy_indices[episodes]],
            "observation": data.observations[steps],
            "action": data.actions[steps],
            "reward": data.rewards[steps],
            "next_observation": data.next_observations(steps),
            "terminated": data.terminated[steps],
            "truncated": data.truncated[steps],
        }
        if data.action_masks is not None:
            columns["action_mask"] = data.action_masks[steps]
        yield arrow.table({name: _column(values) for name, values in columns.items()})


def _column(values: Array) -> Any:
    """Return an array [rows, ...] as an Arrow array of numbers, texts or lists of a fixed size."""
    arrow = pyarrow()
    if values.ndim == 1:
        return arrow.array(values)
    flat = values.reshape(len(values), -1)
    kind = arrow.list_(arrow.from_numpy_dtype(values.dtype), flat.shape[1])
    return arrow.FixedSizeListArray.from_arrays(arrow.array(flat.reshape(-1)), type=kind)
