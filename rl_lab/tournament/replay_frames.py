"""This module records games for the HTML report: it plays matches again, checks them, and stores their drawings.

`report` calls `record` and writes the `Recording` into the page. Each shape (a circle, a polygon...) is stored once for
all games, and each frame only as the change from the frame before, because a page has hundreds of games. Matches of
user code are played in another process. Nothing is written to disk here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core.errors import UsageError
from rl_lab.engine.batch import Batch
from rl_lab.rendering.drawing import draw
from rl_lab.rendering.json_canvas import JsonCanvas
from rl_lab.tournament.entrants import is_unchanged
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.replay import task_of
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.session import MatchResult
from rl_lab.tournament.store import Tournament
from rl_lab.tournament.workers import WorkerError, replay_in_process

_MAX_FRAMES = 240  # of a game; in longer games, a frame covers several steps
_MAX_BYTES = 6_000_000  # approximate limit for all games


@dataclass
class Recording:
    """Games as frames, which are lists of shapes from back to front.

    A frame is stored as the change from the frame before: [number of shapes that stay at the start, number that stay at
    the end, numbers of the shapes between them...].

    shapes    the shapes as JSON, numbered from 0; see `JsonCanvas`
    games     by the match's id: `every`, the number of steps of a frame, and `frames`
    missing   one line for each reason why games are missing
    """

    shapes: list[str] = field(default_factory=list)  # as JSON
    games: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def record(
    tournament: Tournament,
    matches: Sequence[Match],
    *,
    code: bool = False,
) -> Recording:
    """Return drawings of these matches, in their order, up to a limit of the size.

    Entrants that are user code run only with `code`, in another process. Entrants that have changed do not play. A
    match that ends by forfeit, or whose replay differs, is left out.
    """
    recording, shape_numbers = Recording(), dict[str, int]()
    envs = make.make(tournament.world, 1, tournament.params, autoreset=AutoresetMode.DISABLED, threads=1)
    try:
        if not isinstance(envs, Batch) or envs.world.draw is None:
            recording.missing.append(f"{tournament.world} has no drawing of its own that a page could show")
            return recording
        names = _replayable_entrants(tournament, envs.world, {n for m in matches for n in m.pairing}, code, recording)
        results = _replay_matches(tournament, [m for m in matches if names.issuperset(m.pairing)], names, recording)
        size = 0  # approximate number of bytes of all games so far
        for match in matches:
            if match.id in results and size < _MAX_BYTES:
                game, game_size = _draw_game(envs, results[match.id], shape_numbers, recording.shapes)
                recording.games[match.id] = game
                size += game_size
        if num_left_out := len(results) - len(recording.games):
            recording.missing.append(f"{num_left_out:,} more games would make this page too large")
    finally:
        envs.close()
    return recording


def _replayable_entrants(
    tournament: Tournament, world: Any, names: set[str], code: bool, recording: Recording
) -> set[str]:
    """Return the names of those entrants that can play again, and record in `missing` why others cannot."""
    replayable, entrant_names = set(), {each.name for each in tournament.entrants}
    unknown = sorted(names - entrant_names)
    recording.missing += [f"games of {name}: it is no entrant of this tournament" for name in unknown]
    for each in tournament.entrants:
        if each.name not in names:
            continue
        if each.kind == "function" and not code:
            recording.missing.append(f"games of {each.name}: it is code, which runs only if you say so (--code)")
        elif not is_unchanged(each, world):
            recording.missing.append(f"games of {each.name}: it has changed since, or is gone")
        else:
            try:
                if each.kind != "function":  # user code has been loaded in another process, and runs in no other way
                    MatchEngine(dataclasses.replace(tournament.setup(), entrants=(each,)))
                replayable.add(each.name)
            except UsageError as error:
                recording.missing.append(f"games of {each.name}: {error}")
    return replayable


def _replay_matches(
    tournament: Tournament,
    matches: Sequence[Match],
    names: set[str],
    recording: Recording,
) -> dict[str, MatchResult]:
    """Play matches again, and return the results that are the same as before, by the match's id; forfeits are left out.

    Record in `missing` why others are not among them.
    """
    schedule, expected, tasks = tournament.make_schedule(), {}, []
    for match in matches:
        try:
            tasks.append(task_of(tournament, schedule, match))
            expected[match.id] = match
        except UsageError as error:
            recording.missing.append(str(error))
    results = _replay_tasks(tournament, tasks, names, recording)
    same_results = {r.match.id: r for r in results if r.match == expected[r.match.id]}
    if differing := len(expected) - len(same_results):
        recording.missing.append(f"{differing:,} games came out differently when they were played again")
    return {key: each for key, each in same_results.items() if each.match.ending != "forfeit"}


def _replay_tasks(
    tournament: Tournament, tasks: Sequence[Task], names: set[str], recording: Recording
) -> Iterator[MatchResult]:
    """Play matches of these entrants: in this process, or in another one those with an entrant that is user code."""
    setup = tournament.setup()
    code = {each.name for each in tournament.code}

    def setup_of(players: set[str]) -> MatchSetup:
        return dataclasses.replace(setup, entrants=tuple(each for each in setup.entrants if each.name in players))

    if tasks_without_code := [task for task in tasks if code.isdisjoint(task.pairing)]:
        yield from MatchEngine(setup_of(names - code)).play(tasks_without_code)
    if tasks_with_code := [task for task in tasks if not code.isdisjoint(task.pairing)]:
        try:
            for match, actions in replay_in_process(setup_of(names), tasks_with_code):
                if actions is not None:
                    yield MatchResult(match, actions)
        except (UsageError, WorkerError) as error:
            recording.missing.append(f"games of entrants that are code: {error}")


def _draw_game(
    envs: Batch, result: MatchResult, shape_numbers: dict[str, int], shapes: list[str]
) -> tuple[dict[str, Any], int]:
    """Return the frames of a game and its approximate size in bytes; new shapes are added to `shapes`."""
    every = -(-len(result.actions) // _MAX_FRAMES)  # rounded up
    size, last_frame, changes = 0, list[int](), []
    envs.seed(np.array([result.match.seed]))
    envs.reset()
    for step in range(len(result.actions) + 1):
        if step:
            envs.actions[0] = result.actions[step - 1]
            envs.step()
        if step % every and step < len(result.actions):
            continue
        frame = []
        for shape in _current_shapes(envs):
            if shape not in shape_numbers:
                shape_numbers[shape] = len(shapes)
                shapes.append(shape)
                size += len(shape) + 1
            frame.append(shape_numbers[shape])
        changes.append(_frame_change(last_frame, frame))
        size += 5 * len(changes[-1])  # four digits and a comma
        last_frame = frame
    return {"every": every, "frames": changes}, size


def _current_shapes(envs: Batch) -> list[str]:
    """Return the shapes of the current drawing as JSON."""
    canvas = JsonCanvas()
    # The drawing receives copies, so that it cannot change the state of the game.
    draw(envs.world, envs.states[0].copy(), envs.params[0].copy(), canvas)
    return [json.dumps(shape, separators=(",", ":")) for shape in canvas.shapes]


def _frame_change(before: list[int], after: list[int]) -> list[int]:
    """Return the change between two frames in the form that `Recording` describes."""
    common = min(len(before), len(after))
    start = next((k for k in range(common) if before[k] != after[k]), common)
    end = next((k for k in range(common - start) if before[-1 - k] != after[-1 - k]), common - start)
    return [start, end, *after[start : len(after) - end]]
