"""Record games for the HTML report: play matches again, check them, and store each shape of their drawings once."""

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
from rl_lab.tournament.entrants import same
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.matches import MatchEngine
from rl_lab.tournament.replay import task_of
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.session import MatchResult
from rl_lab.tournament.store import Tournament
from rl_lab.tournament.workers import WorkerError, play_again

_MAX_FRAMES = 240  # of a game; in longer games, a frame covers several steps
_MAX_BYTES = 6_000_000  # approximate limit for all games


@dataclass
class Recording:
    """Games as frames.

    A frame is stored as the change from the frame before: [number of shapes that stay at the start, number that stay at
    the end, shapes between them...].

    shapes    the shapes as JSON, numbered from 0; see `JsonCanvas`
    games     by match: `every`, the number of steps of a frame, and `frames`
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
        names = _playable(tournament, envs.world, {n for m in matches for n in m.pairing}, code, recording)
        results = _play_again(tournament, [m for m in matches if names.issuperset(m.pairing)], names, recording)
        size = 0
        for match in matches:
            if match.id in results and size < _MAX_BYTES:
                game, game_size = _draw_game(envs, results[match.id], shape_numbers, recording.shapes)
                recording.games[match.id] = game
                size += game_size
        if left := len(results) - len(recording.games):
            recording.missing.append(f"{left:,} more games would make this page too large")
    finally:
        envs.close()
    return recording


def _playable(tournament: Tournament, world: Any, names: set[str], code: bool, recording: Recording) -> set[str]:
    """Return the names of those entrants that can play again, and record why others cannot."""
    playable, known = set(), {each.name for each in tournament.entrants}
    recording.missing += [f"games of {name}: it is no entrant of this tournament" for name in sorted(names - known)]
    for each in tournament.entrants:
        if each.name not in names:
            continue
        if each.kind == "function" and not code:
            recording.missing.append(f"games of {each.name}: it is code, which runs only if you say so (--code)")
        elif not same(each, world):
            recording.missing.append(f"games of {each.name}: it has changed since, or is gone")
        else:
            try:
                if each.kind != "function":  # user code has been loaded in another process, and runs in no other way
                    MatchEngine(dataclasses.replace(tournament.setup(), entrants=(each,)))
                playable.add(each.name)
            except UsageError as error:
                recording.missing.append(f"games of {each.name}: {error}")
    return playable


def _play_again(
    tournament: Tournament,
    matches: Sequence[Match],
    names: set[str],
    recording: Recording,
) -> dict[str, MatchResult]:
    """Play matches again, and return the results that are the same as before, by match."""
    schedule, expected, tasks = tournament.make_schedule(), {}, []
    for match in matches:
        try:
            tasks.append(task_of(tournament, schedule, match))
            expected[match.id] = match
        except UsageError as error:
            recording.missing.append(str(error))
    results = _results(tournament, tasks, names, recording)
    same_results = {r.match.id: r for r in results if r.match == expected[r.match.id]}
    if differing := len(expected) - len(same_results):
        recording.missing.append(f"{differing:,} games came out differently when they were played again")
    return {key: each for key, each in same_results.items() if each.match.ended != "forfeit"}


def _results(
    tournament: Tournament, tasks: Sequence[Task], names: set[str], recording: Recording
) -> Iterator[MatchResult]:
    """Play matches of these entrants. Those with an entrant that is user code are played in another process."""
    setup = tournament.setup()
    code = {each.name for each in tournament.code}
    for contained in (False, True):
        tasks_of_kind = [task for task in tasks if code.isdisjoint(task.pairing) is not contained]
        players = names if contained else names - code
        part = dataclasses.replace(setup, entrants=tuple(each for each in setup.entrants if each.name in players))
        if not tasks_of_kind:
            continue
        if not contained:
            yield from MatchEngine(part).play(tasks_of_kind)
            continue
        try:
            for match, actions in play_again(part, tasks_of_kind):
                if actions is not None:
                    yield MatchResult(match, actions)
        except (UsageError, WorkerError) as error:
            recording.missing.append(f"games of entrants that are code: {error}")


def _draw_game(
    envs: Batch, result: MatchResult, shape_numbers: dict[str, int], shapes: list[str]
) -> tuple[dict[str, Any], int]:
    """Return the frames of a game and its approximate size in bytes; new shapes are added to `shapes`."""
    every = -(-len(result.actions) // _MAX_FRAMES)
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
        for shape in _shapes(envs):
            if shape not in shape_numbers:
                shape_numbers[shape] = len(shapes)
                shapes.append(shape)
                size += len(shape) + 1
            frame.append(shape_numbers[shape])
        changes.append(_change(last_frame, frame))
        size += 5 * len(changes[-1])
        last_frame = frame
    return {"every": every, "frames": changes}, size


def _shapes(envs: Batch) -> list[str]:
    """Return the shapes of the current drawing as JSON."""
    canvas = JsonCanvas()
    # The drawing receives copies, so that it cannot change the state of the game.
    draw(envs.world, envs.states[0].copy(), envs.params[0].copy(), canvas)
    return [json.dumps(shape, separators=(",", ":")) for shape in canvas.shapes]


def _change(before: list[int], after: list[int]) -> list[int]:
    """Return the change between two frames in the form that `Recording` describes."""
    common = min(len(before), len(after))
    start = next((k for k in range(common) if before[k] != after[k]), common)
    end = next((k for k in range(common - start) if before[-1 - k] != after[-1 - k]), common - start)
    return [start, end, *after[start : len(after) - end]]
