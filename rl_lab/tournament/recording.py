"""Games drawn for a page: played again, checked against their lines, and kept as shapes, each shape once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from .. import batch
from ..engine import Batch
from ..names import UsageError
from ..record import PlainRecord
from ..sketch import Sketch
from .entrants import same
from .folder import Tournament
from .ledger import Match
from .play import Hall
from .replay import task_of
from .session import Played

_MOST_FRAMES = 240  # of a game; longer ones are shown in larger steps
_MOST_BYTES = 6_000_000  # of all games, about


@dataclass
class Recording:
    """Games as frames. A frame changes the one before: [kept at its start, kept at its end, shapes between them...].

    shapes    numbered from 0; see `Sketch`
    games     by match: `every`, how many steps a frame takes, and `frames`
    missing   one line for each reason why others are not there
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
    """Return these matches drawn, the first ones first for as long as there is room.

    Entrants that are code run only with `code`; those that have changed or are gone do not play. A match that ends by
    forfeit, or otherwise than it did, is left out.
    """
    recording, known = Recording(), dict[str, int]()
    worlds = batch.make(tournament.world, 1, tournament.params, autoreset=AutoresetMode.DISABLED, threads=1)
    try:
        if not isinstance(worlds, Batch) or worlds.world.draw is None:
            recording.missing.append(f"{tournament.world} has no drawing of its own that a page could show")
            return recording
        names = _able(tournament, worlds.world, {n for m in matches for n in m.pairing}, code, recording)
        played = _again(tournament, [m for m in matches if names.issuperset(m.pairing)], names, recording)
        size = 0
        for match in matches:
            if match.id in played and size < _MOST_BYTES:
                game, added = _drawn(worlds, played[match.id], known, recording.shapes)
                recording.games[match.id] = game
                size += added
        if left := len(played) - len(recording.games):
            recording.missing.append(f"{left:,} more games would make this page too large")
    finally:
        worlds.close()
    return recording


def _able(tournament: Tournament, world: Any, names: set[str], code: bool, recording: Recording) -> set[str]:
    """Return who of these can play again as they did."""
    able, known = set(), {each.name for each in tournament.entrants}
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
                Hall(dataclasses.replace(tournament.setup(), entrants=(each,)))
                able.add(each.name)
            except UsageError as error:
                recording.missing.append(f"games of {each.name}: {error}")
    return able


def _again(
    tournament: Tournament,
    matches: Sequence[Match],
    names: set[str],
    recording: Recording,
) -> dict[str, Played]:
    """Return what came out as before, by match."""
    plan, told, tasks = tournament.plan(), {}, []
    for match in matches:
        try:
            tasks.append(task_of(tournament, plan, match))
            told[match.id] = match
        except UsageError as error:
            recording.missing.append(str(error))
    hall = Hall(tournament.setup(), only=names)
    found = {p.match.id: p for p in hall.play(tasks) if p.match == told[p.match.id]}
    if other := len(told) - len(found):
        recording.missing.append(f"{other:,} games came out differently when they were played again")
    return {key: each for key, each in found.items() if each.match.ended != "forfeit"}


def _drawn(worlds: Batch, played: Played, known: dict[str, int], shapes: list[str]) -> tuple[dict[str, Any], int]:
    """Return a game, and about how many bytes it takes; new shapes are added."""
    every = -(-len(played.actions) // _MOST_FRAMES)
    size, before, frames = 0, list[int](), []
    worlds.seed(np.array([played.match.seed]))
    worlds.reset()
    for step in range(len(played.actions) + 1):
        if step:
            worlds.actions[0] = played.actions[step - 1]
            worlds.step()
        if step % every and step < len(played.actions):
            continue
        now = []
        for shape in _shapes(worlds):
            if shape not in known:
                known[shape] = len(shapes)
                shapes.append(shape)
                size += len(shape) + 1
            now.append(known[shape])
        frames.append(_change(before, now))
        size += 5 * len(frames[-1])
        before = now
    return {"every": every, "frames": frames}, size


def _shapes(worlds: Batch) -> list[str]:
    sketch = Sketch()
    assert worlds.world.draw is not None
    # A copy: whatever a drawing does to its state, the game goes on as it was played.
    worlds.world.draw(PlainRecord(worlds.states[0].copy()), PlainRecord(worlds.params[0].copy()), sketch)
    return [json.dumps(shape, separators=(",", ":")) for shape in sketch.shapes]


def _change(before: list[int], now: list[int]) -> list[int]:
    most = min(len(before), len(now))
    start = next((k for k in range(most) if before[k] != now[k]), most)
    end = next((k for k in range(most - start) if before[-1 - k] != now[-1 - k]), most - start)
    return [start, end, *now[start : len(now) - end]]
