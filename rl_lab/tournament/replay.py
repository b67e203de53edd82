"""This module plays a match again from its seed, checks that it is the same, and writes a video of it.

`replay` is the entry point, for `rl-lab tournament replay`. It reads the tournament's ledger and writes one .mp4 file.
`task_of` is used by `replay_frames` as well.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl_lab.core.errors import UsageError, nearest
from rl_lab.core.world import Array
from rl_lab.evaluation.evaluate import Episode, mean_return
from rl_lab.evaluation.video import ReplayError, film
from rl_lab.tournament.ledger import Match, read
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.schedule import Schedule, Task
from rl_lab.tournament.store import Tournament, changed_entrants
from rl_lab.tournament.workers import replay_in_process


@dataclass(frozen=True)
class MatchReplay:
    """A match whose replay agrees with its line in the ledger."""

    match: Match
    video: Path | None  # None for a match that ended by forfeit
    changed_entrants: list[str]  # names of entrants whose content has changed since


def task_of(tournament: Tournament, schedule: Schedule, match: Match) -> Task:
    """Return the task of a match. Raises UsageError where this tournament's schedule cannot contain it."""
    names = {each.name for each in tournament.entrants}
    if (
        not names.issuperset(match.pairing)
        or len(match.pairing) != schedule.players_per_match
        or match.leg >= len(schedule.seat_rotations)
    ):
        raise UsageError(f"match {match.id} is not of this tournament")
    return schedule.task(match.pairing, match.pair, match.leg)


def replay(tournament: Tournament, match_id: str, *, out: Path | None = None) -> MatchReplay:
    """Play a match again and write a video into `out`, by default `videos/` in the tournament's folder.

    Entrants that are user code are run, in another process, so callers must have the user's consent.

    Raises:
        UsageError: there is no such match.
        ReplayError: the replay differs from the match.
        WorkerError: every process ends before the match does.
    """
    matches = {match.id: match for match in read(tournament.ledger)}
    if match_id not in matches:
        raise UsageError(f"no match {match_id!r} in {tournament.ledger}; {nearest(match_id, matches)}")
    match = matches[match_id]
    task = task_of(tournament, tournament.make_schedule(), match)
    folder = tournament.path / "videos" if out is None else out
    if match.ending != "forfeit":
        folder.mkdir(parents=True, exist_ok=True)  # before the match is played, because it may fail
    entrants = tuple(each for each in tournament.entrants if each.name in match.pairing)
    changed = changed_entrants(dataclasses.replace(tournament, entrants=entrants))
    replayed, actions = _replay_task(dataclasses.replace(tournament.setup(), entrants=entrants), task)
    for name in ("seed", "entrants", "version", "params", "steps", "returns", "trace"):
        before, now = getattr(match, name), getattr(replayed, name)
        if before != now:
            reason = f"; {', '.join(changed)} changed since" if changed else ""
            raise ReplayError(f"match {match_id} came out differently: {name} was {before}, is {now}{reason}")
    if match.ending == "forfeit":
        return MatchReplay(match, None, changed)
    if actions is None:
        raise ReplayError(f"match {match_id} cannot be filmed: an entrant sometimes ends the process it plays in")
    # The episode's return is that of the first entrant, the mean over its seats.
    seats = tuple(seat for seat, name in enumerate(match.entrants) if name == match.entrants[0])
    episode = Episode(
        index=match.pair,
        seed=match.seed,
        return_=mean_return(np.array(match.returns), seats),
        length=match.steps,
        terminated=match.ending == "terminated",
        truncated=match.ending == "truncated",
        success=None,
        actions=actions,
        seats=seats,
        returns=match.returns,
    )
    path = folder / (re.sub(r"[^\w.=-]+", "-", match_id) + ".mp4")
    return MatchReplay(match, film(episode, match.world, match.params, path, players=match.entrants), changed)


def _replay_task(setup: MatchSetup, task: Task) -> tuple[Match, Array | None]:
    """Return the match and its actions, which may be None for a match of user code, played in another process."""
    if any(each.kind == "function" for each in setup.entrants):
        return replay_in_process(setup, [task])[0]
    (result,) = MatchEngine(setup).play([task])
    return result.match, result.actions
