"""Files of levels, and levels as a parameter of a world: `world.params.level_grids=FILE`.

A file of levels is JSON: format, version, the name of the world, and the levels, each a list of rows of text (see
`core.levels`). A person can write one. In a scenario, the levels become one text that has them all, so that a run does
not depend on the file: "grids:" and, in base 64, each level as a number whose digits are the cells.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.errors import one_line
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.levels import COUNT, GRIDS, Levels
from rl_lab.core.untrusted import checked_list, checked_type, read_json
from rl_lab.core.world import Array, World

_FORMAT = {"format": "rl_lab.levels", "version": 1}
_PREFIX = "grids:"  # of the text that has the levels themselves
_MAX_BYTES = 2**24


def write(path: Path, world: World, grids: Array) -> None:
    """Write a file of these levels, u1 [N, H * W]. Raises OSError."""
    assert world.levels is not None
    rows = [json.dumps(world.levels.text(grid)) for grid in grids]
    head = json.dumps({**_FORMAT, "world": world.name})[:-1]
    atomic_write_bytes(path, (head + ', "levels": [\n' + ",\n".join(rows) + "\n]}\n").encode())


def read(path: Path, world: World) -> Array:
    """Return the levels of a file, u1 [N, H * W]. Raises ValueError, in one line, for a file that is no such file."""
    levels = _levels_of(world)
    try:
        record = checked_type(read_json(path, _MAX_BYTES), "it", dict)
        if any(record.get(key) != value for key, value in _FORMAT.items()):
            raise ValueError(f"it is {record.get('format')!r:.40} version {record.get('version')!r:.20}")
        if record.get("world") != world.name:
            raise ValueError(f"its levels are of {record.get('world')!r:.40}, not of {world.name}")
        texts = checked_list(record.get("levels"), "levels")
        if not texts:
            raise ValueError("it has no levels")
        return np.stack([_parse(levels, text, number) for number, text in enumerate(texts, 1)])
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(getattr(error, 'strerror', None) or error)[:200]}") from None


def _parse(levels: Levels, rows: Any, number: int) -> Array:
    try:
        return levels.parse(rows)
    except ValueError as error:
        raise ValueError(f"level {number}: {error}") from None


def _levels_of(world: World) -> Levels:
    if world.levels is None:
        raise ValueError(f"{world.name} cannot be given levels")
    return world.levels


def _first(world: World, grids: Array, count: Any) -> Array:
    """Return the first `count` levels, all for 0. Raises ValueError where there are not as many, or none or too many.

    The parameters of the world have places for a certain number.
    """
    most = world.Params.dtype[GRIDS].shape[0]
    number = count or len(grids)
    if type(number) is not int or not 1 <= number <= len(grids):
        raise ValueError(f"{COUNT}={number!r:.20}: expected 1 to {len(grids):,}, or 0 for all")
    if number > most:
        raise ValueError(f"{GRIDS}: {number:,} levels do not fit: set {COUNT}={most}, or less, to use the first ones")
    return grids[:number]


def pack(world: World, grids: Array) -> str:
    """Return levels, u1 [N, H * W], as one text. It has about 28 characters for a level of 49 cells and 10 symbols."""
    levels = _levels_of(world)
    base, size = len(levels.symbols), _bytes_of(levels)
    numbers = [sum(int(cell) * base**place for place, cell in enumerate(grid)) for grid in grids]
    return _PREFIX + base64.b64encode(b"".join(number.to_bytes(size, "little") for number in numbers)).decode()


def _bytes_of(levels: Levels) -> int:
    return -(-int(len(levels.symbols) ** levels.cells - 1).bit_length() // 8)


def _unpack(world: World, text: str) -> Array:
    levels = _levels_of(world)
    base, size = len(levels.symbols), _bytes_of(levels)
    try:
        data = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        data = b"?"
    if not data or len(data) % size:
        raise ValueError(f"{GRIDS}={text[:24]}...: it is damaged")
    grids = []
    for first in range(0, len(data), size):
        number, cells = int.from_bytes(data[first : first + size], "little"), []
        for _ in range(levels.cells):
            number, cell = divmod(number, base)
            cells.append(cell)
        grids.append(np.array(cells, np.uint8))
    array = np.stack(grids)
    if not levels.are_valid(array).all():
        raise ValueError(f"{GRIDS}={text[:24]}...: it is damaged")
    return array


def resolve(world: World, params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters in which levels that a file has are that text. Raises ValueError as `read`."""
    value = params.get(GRIDS)
    if world.levels is None or not isinstance(value, str) or value.startswith(_PREFIX):
        return params
    # The text has these levels and no others, so nothing is left for the number to choose.
    return {**params, GRIDS: pack(world, _first(world, read(Path(value), world), params.get(COUNT, 0))), COUNT: 0}


def expand(world: World, params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with levels as arrays, and with their number.

    The levels are the name of a file, a text of `pack`, or an array, [N, H * W] or [N, H, W]. With `num_level_grids`,
    only the first ones are used. Raises ValueError.
    """
    value, count = params.get(GRIDS, 0), params.get(COUNT, 0)
    if world.levels is None:
        return params
    if np.isscalar(value) and not isinstance(value, str):
        if value or count:
            raise ValueError(f"{GRIDS}={value!r:.20}: name a file of levels, or leave {COUNT} out")
        return params
    if isinstance(value, str):
        grids = _unpack(world, value) if value.startswith(_PREFIX) else read(Path(value), world)
    else:
        grids = np.asarray(value)
        if grids.ndim < 2 or grids[0].size != world.levels.cells:
            raise ValueError(f"{GRIDS}: expected levels of {world.levels.cells} cells, got shape {grids.shape}")
        grids = grids.reshape(len(grids), -1)
        # Cells out of range are refused, with the range, where the record of parameters is made.
        if (grids < len(world.levels.symbols)).all() and not world.levels.are_valid(grids).all():
            raise ValueError(f"{GRIDS}: not all of these are levels of {world.name}")
    grids = _first(world, grids, count)
    padded = np.zeros(world.Params.dtype[GRIDS].shape, grids.dtype)
    padded[: len(grids)] = grids
    return {**params, GRIDS: padded, COUNT: len(grids)}
