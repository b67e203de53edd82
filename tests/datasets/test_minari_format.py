"""Data sets in Minari's format: what is written is read again, and whatever is damaged is refused in one line."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given
from hypothesis import strategies as st
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.core.errors import UsageError
from rl_lab.datasets.columns import Columns
from rl_lab.datasets.dataset import open_dataset
from rl_lab.datasets.metadata import read
from rl_lab.datasets.minari_format import read_episodes

BOXES = st.builds(
    lambda dtype, shape: Box(0, 1, tuple(shape), np.dtype(dtype).type),
    st.sampled_from(["float32", "float64", "uint8", "int8", "int32", "bool"]),
    st.lists(st.integers(1, 3), max_size=3),
)
ACTIONS = st.one_of(
    st.integers(1, 5).map(Discrete), st.integers(1, 3).map(lambda size: Box(-1.0, 1.0, (size,), np.float32))
)


@given(BOXES, ACTIONS, st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    observation: Box,
    action: Discrete[int] | Box,
    lengths: list[int],
    has_masks: bool,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    mask_size = int(action.n) if has_masks and isinstance(action, Discrete) else 0
    about = cartpole_metadata(observation, action, mask_size=mask_size)
    columns = random_columns(about, lengths)
    write_data_set(folder, about, columns)
    again = read(folder / "data")
    assert (again.observation_space, again.action_space) == (observation, action)
    (episodes,) = read_episodes(folder / "data", again)
    for field in fields(Columns):
        first, second = getattr(episodes, field.name), getattr(columns, field.name)
        assert first.dtype == second.dtype and first.shape == second.shape, field.name
        np.testing.assert_array_equal(first, second, err_msg=field.name)
    data = open_dataset(folder)
    np.testing.assert_array_equal(data.observations, columns.observations)
    assert not data.observations.flags.writeable


def test_the_hash_does_not_depend_on_the_parts_in_which_data_are_written(tmp_path: Path) -> None:
    about = cartpole_metadata()
    one, two = random_columns(about, [3, 4]), random_columns(about, [2], seed=1)
    both = Columns(**{f.name: np.concatenate([getattr(one, f.name), getattr(two, f.name)]) for f in fields(Columns)})
    first, second = write_data_set(tmp_path / "a", about, one, two), write_data_set(tmp_path / "b", about, both)
    assert first == second and len(first.content_hash) == 64


def _edit_metadata(folder: Path, **changes: object) -> None:
    file = folder / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _edit_own(folder: Path, **changes: object) -> None:
    """Change the lab's own entries."""
    file = folder / "data" / "metadata.json"
    _edit_metadata(folder, rl_lab=json.loads(file.read_text())["rl_lab"] | changes)


def _rewrite(folder: Path, **changes: object) -> None:
    """Replace columns of episode 1, or remove those that are None."""
    file = folder / "data" / "1" / "part-0.arrow"
    with pa.OSFile(str(file)) as source:
        table = pa.ipc.open_file(source).read_all()
    columns = {name: table.column(name) for name in table.column_names} | changes
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    with pa.ipc.new_file(str(file), table.schema) as sink:
        sink.write_table(table)


DAMAGES = {
    "cut file": lambda f: (f / "data/1/part-0.arrow").write_bytes((f / "data/1/part-0.arrow").read_bytes()[:300]),
    "empty file": lambda f: (f / "data/1/part-0.arrow").write_bytes(b""),
    "missing file": lambda f: (f / "data/1/part-0.arrow").unlink(),
    "missing column": lambda f: _rewrite(f, rewards=None),
    "NaN": lambda f: _rewrite(f, rewards=pa.array([np.nan, 0.0, 0.0], pa.float32())),
    "empty value": lambda f: _rewrite(f, rewards=pa.array([None, 0.0, 0.0], pa.float32())),
    "another type": lambda f: _rewrite(f, rewards=pa.array(["a", "b", "c"])),
    "another shape": lambda f: _rewrite(f, observations=pa.array([1.0, 2.0, 3.0], pa.float32())),
    "no such action": lambda f: _rewrite(f, actions=pa.array([5, 0, 0])),
    "fractional action": lambda f: _rewrite(f, actions=pa.array([0.5, 0.0, 0.0])),
    "an end in the middle": lambda f: _rewrite(f, terminations=pa.array([True, True, False])),
    "other numbers": lambda f: _rewrite(f, rewards=pa.array([9.0, 9.0, 0.0], pa.float32())),
    "seed": lambda f: (f / "data/1/metadata.json").write_text('{"seed": "x"}'),
    "no JSON": lambda f: (f / "data/1/metadata.json").write_text("{"),
    "more steps": lambda f: _edit_metadata(f, total_steps=10),
    "fewer steps": lambda f: _edit_metadata(f, total_steps=8),
    "steps": lambda f: _edit_metadata(f, total_steps=-1),
    "HDF5": lambda f: _edit_metadata(f, data_format="hdf5"),
    "Dict": lambda f: _edit_metadata(f, observation_space='{"type": "Dict", "subspaces": {}}'),
    "no space": lambda f: _edit_metadata(f, observation_space=3),
    "huge space": lambda f: _edit_metadata(f, action_space='{"type": "Discrete", "n": 99999999999, "start": 0}'),
    "bounds": lambda f: _edit_metadata(
        f, observation_space='{"type": "Box", "dtype": "float32", "shape": [4], "low": [0, 0], "high": [1]}'
    ),
    "another hash": lambda f: _edit_own(f, content_hash="0" * 64),
    "a hash that is a path": lambda f: _edit_own(f, content_hash="../../x"),
    "a policy without a name": lambda f: _edit_own(f, policies=["one"]),
    "masks that are not there": lambda f: _edit_own(f, mask_size=2),
    "metadata": lambda f: (f / "data/metadata.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    about = cartpole_metadata()
    write_data_set(tmp_path / "demo", about, random_columns(about, [3, 2, 4]))
    DAMAGES[damage](tmp_path / "demo")
    with pytest.raises(UsageError, match="demo") as caught:
        open_dataset(tmp_path / "demo")
    assert "\n" not in str(caught.value)


def test_flipped_bytes_are_refused_or_change_nothing(tmp_path: Path) -> None:
    about = cartpole_metadata()
    columns = random_columns(about, [3, 2])
    write_data_set(tmp_path / "demo", about, columns)
    file = tmp_path / "demo" / "data" / "1" / "part-0.arrow"
    original, rng = file.read_bytes(), np.random.default_rng(0)
    for position in rng.choice(len(original), 100, replace=False).tolist():
        damaged = bytearray(original)
        damaged[position] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        try:
            data = open_dataset(tmp_path / "demo")
        except UsageError:
            continue
        np.testing.assert_array_equal(data.observations, columns.observations)
        np.testing.assert_array_equal(data.rewards, columns.rewards)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such data set"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(UsageError, match="is no data set"):
        open_dataset(tmp_path)
    write_data_set(tmp_path / "empty", cartpole_metadata())
    with pytest.raises(UsageError, match="holds no episode"):
        open_dataset(tmp_path / "empty")


def test_a_world_whose_spaces_differ_is_refused_with_both_contracts(tmp_path: Path) -> None:
    from rl_lab.engine import world_registry

    about = cartpole_metadata()
    write_data_set(tmp_path / "demo", about, random_columns(about, [2]))
    data = open_dataset(tmp_path / "demo")
    data.require_world(world_registry.load("cartpole"))
    with pytest.raises(UsageError, match=r"float32 \[4\], actions Discrete\(2\); catch has"):
        data.require_world(world_registry.load("catch"))


def test_pictures_that_were_compressed_are_refused(tmp_path: Path) -> None:
    about = cartpole_metadata(Box(0, 255, (32, 32, 3), np.uint8))
    write_data_set(tmp_path / "demo", about, random_columns(about, [2]))
    assert open_dataset(tmp_path / "demo").observations.shape == (2, 32, 32, 3)
    _edit_metadata(tmp_path / "demo", jpeg_encoding=True)
    with pytest.raises(UsageError, match="JPEG"):
        open_dataset(tmp_path / "demo")
