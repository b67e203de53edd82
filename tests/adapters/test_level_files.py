"""Levels of a world as grids: they come back from a state, a file and a text as they were, and damaged ones do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_lab.adapters import level_files, make
from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.evaluation.level_checks import batch_of, own_levels, solve

WORLD = world_registry.load("keys_and_doors")
ROWS = ["X..#...", "...#...", "...C...", "#####B#", "...#.b.", "@a.A...", "...#c.."]


def encoded(batch: Batch) -> Array:
    """Return the level that each world of a batch is in."""
    assert WORLD.levels is not None
    return np.array([WORLD.levels.encode(PlainRecord(state)) for state in batch.states], np.uint8)


def test_levels_that_a_world_makes_are_the_same_after_all_that_they_go_through(tmp_path: Path) -> None:
    grids = own_levels(WORLD, 300, seed=3)
    assert len({grid.tobytes() for grid in grids}) == 300
    level_files.write(tmp_path / "levels.json", WORLD, grids)
    assert (level_files.read(tmp_path / "levels.json", WORLD) == grids).all()
    assert (encoded(batch_of(WORLD, grids)) == grids).all()
    for value in (str(tmp_path / "levels.json"), level_files.pack(WORLD, grids), grids, grids.reshape(-1, 7, 7)):
        record = make.parameters(WORLD, {"level_grids": value})[0]
        assert record["num_level_grids"] == 300 and (record["level_grids"][:300] == grids).all()


def test_a_scenario_holds_the_chosen_levels_and_takes_others_later(tmp_path: Path) -> None:
    """Also where only the first levels of a file were chosen."""
    level_files.write(tmp_path / "levels.json", WORLD, own_levels(WORLD, 8, seed=3))
    params = level_files.resolve(WORLD, {"level_grids": str(tmp_path / "levels.json"), "num_level_grids": 5})
    assert make.parameters(WORLD, params)["num_level_grids"].item() == 5
    assert make.parameters(WORLD, {**params, "level_grids": 0})["num_level_grids"].item() == 0


def test_a_level_that_is_given_is_the_one_that_made_it() -> None:
    """A world in a level of its own, and one that was given this level as a grid, play the same episode."""
    own = Batch(WORLD, 200, seed=5, threads=1)
    own.reset()
    given = batch_of(WORLD, encoded(own))
    for _ in range(40):
        live = ~given.done
        assert np.array_equal(own.observations[live], given.observations[live])
        own.scripted_actions("expert")
        given.actions[...] = own.actions
        for batch in (own, given):
            batch.step()
    assert given.done.mean() > 0.5


def test_every_level_of_a_file_is_played(tmp_path: Path) -> None:
    grids = own_levels(WORLD, 7, seed=0)
    envs = make.make("keys_and_doors", 200, {"level_grids": grids, "num_level_grids": 5})
    envs.reset()
    assert {grid.tobytes() for grid in encoded(envs)} == {grid.tobytes() for grid in grids[:5]}  # type: ignore[arg-type]


def test_a_level_that_a_person_has_written_is_solved_or_not(tmp_path: Path) -> None:
    assert WORLD.levels is not None
    closed = [row.replace("A", "#").replace("...#c..", "A..#c..") for row in ROWS]  # no way out of the first room
    grids = np.stack([WORLD.levels.parse(rows) for rows in (ROWS, closed)])
    assert WORLD.levels.text(grids[0]) == ROWS
    solved, steps = solve(WORLD, grids)
    assert solved.tolist() == [True, False] and steps[0] < 40 and steps[1] == 200


def record(**changes: Any) -> str:
    return json.dumps({"format": "rl_lab.levels", "version": 1, "world": "keys_and_doors", "levels": [ROWS]} | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "it is []; expected dict"),
        (record(version=2), "it is 'rl_lab.levels' version 2"),
        (record(world="catch"), "its levels are of 'catch', not of keys_and_doors"),
        (record(levels=[]), "it has no levels"),
        (record(levels=[ROWS] * 1001), "1,001 levels do not fit: set num_level_grids=1000, or less"),
        (record(levels=[ROWS, ROWS[:6]]), "level 2: expected 7 rows of text"),
        (record(levels=[[*ROWS[:6], "...#c."]]), "level 1: row '...#c.' has 6 cells; expected 7"),
        (record(levels=[[*ROWS[:6], "...#d.."]]), "level 1: unknown symbol 'd'"),
        (record(levels=[[*ROWS[:6], "...#..."]]), "level 1: 'c' is in 0 cells; expected one"),
        (record(levels=7), "levels is 7; expected a list"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "levels.json").write_text(text)
    with pytest.raises(ValueError) as error:
        make.parameters(WORLD, {"level_grids": str(tmp_path / "levels.json")})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"level_grids": "grids:abc"}, "level_grids=grids:abc...: it is damaged"),
        ({"level_grids": "grids:"}, "it is damaged"),
        ({"level_grids": "grids:" + "AAAA" * 7}, "it is damaged"),  # 49 cells of floor
        ({"level_grids": "no/such/file"}, "no/such/file: No such file or directory"),
        ({"level_grids": 4}, "name a file of levels"),
        ({"num_level_grids": 3}, "name a file of levels"),
        ({"level_grids": own_levels(WORLD, 2, seed=0), "num_level_grids": 3}, "num_level_grids=3: expected 1 to 2"),
        ({"level_grids": np.zeros((2, 7, 7), np.uint8)}, "not all of these are levels of keys_and_doors"),
        ({"level_grids": np.zeros((2, 7, 6), np.uint8)}, "expected levels of 49 cells"),
        ({"level_grids": np.full((2, 49), 10, np.uint8)}, "level_grids=10: expected 0 to 9"),
    ],
)
def test_parameters_that_are_wrong_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="keys_and_doors: parameter") as error:
        make.parameters(WORLD, params)
    assert message in str(error.value)
