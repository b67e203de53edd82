"""A match played again from its seed by the same entrants, checked against its line, and filmed."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..evaluate import Episode, mean_return
from ..film import ReplayError, film
from ..names import UsageError, nearest
from .folder import Tournament, changed
from .ledger import Match, read
from .play import Hall
from .schedule import Schedule, Task


@dataclass(frozen=True)
class Replay:
    """A match that came out as its line says."""

    match: Match
    video: Path | None  # None for a forfeit: it has no end to be shown
    changed: list[str]  # entrants whose content is not what it was then


def task_of(tournament: Tournament, plan: Schedule, match: Match) -> Task:
    """Return the task that a match was. Raises UsageError where this tournament's schedule `plan` cannot have it."""
    names = {each.name for each in tournament.entrants}
    if not names.issuperset(match.pairing) or len(match.pairing) != plan.met or match.leg >= len(plan.legs):
        raise UsageError(f"match {match.id} is not of this tournament")
    return plan.task(match.pairing, match.pair, match.leg)


def replay(tournament: Tournament, match_id: str, *, out: Path | None = None) -> Replay:
    """Play a match again and film it into `out`, videos/ in the tournament's folder by default.

    Entrants that are code run, in this process: the caller has asked. Raises UsageError for a match that is not there,
    ReplayError where it comes out differently.
    """
    found = {match.id: match for match in read(tournament.ledger)}
    if match_id not in found:
        raise UsageError(f"no match {match_id!r} in {tournament.ledger}; {nearest(match_id, found)}")
    match = found[match_id]
    task = task_of(tournament, tournament.plan(), match)
    own = tuple(each for each in tournament.entrants if each.name in match.pairing)
    news = changed(dataclasses.replace(tournament, entrants=own))
    hall = Hall(tournament.setup(), only=set(match.pairing))
    (played,) = hall.play([task])
    again = played.match
    for name in ("seed", "entrants", "version", "params", "steps", "returns", "trace"):
        told, came = getattr(match, name), getattr(again, name)
        if told != came:
            why = f"; {', '.join(news)} changed since" if news else ""
            raise ReplayError(f"match {match_id} came out differently: {name} was {told}, is {came}{why}")
    if match.ended == "forfeit":
        return Replay(match, None, news)
    seats = tuple(seat for seat, name in enumerate(match.entrants) if name == match.entrants[0])
    episode = Episode(
        index=match.pair,
        seed=match.seed,
        return_=mean_return(np.array(match.returns), seats),
        length=match.steps,
        terminated=match.ended == "terminated",
        truncated=match.ended == "truncated",
        success=None,
        actions=played.actions,
        seats=seats,
        returns=match.returns,
    )
    folder = tournament.path / "videos" if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^\w.=-]+", "-", match_id) + ".mp4")
    caption = "  ".join(f"{seat}: {name}" for seat, name in zip(match.seats, match.entrants, strict=True))
    return Replay(
        match, film(episode, match.world, match.params, path, caption=caption if len(caption) < 60 else ""), news
    )
