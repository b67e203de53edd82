"""Comparing two entrants: pairs of matches in batches, until the sequential test has decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import worlds
from ..batch import FOREIGN
from ..names import UsageError, nearest
from ..progress import Progress
from ..rating import paired
from ..rating.results import Duels, collect
from ..rating.sprt import Verdict, sprt
from .conduct import Outcome, conduct
from .folder import Tournament, load, shorten
from .ledger import Match
from .schedule import Task

_STATES = {"continue": "undecided"}


@dataclass(frozen=True)
class Hypotheses:
    """What is tested: H0, that the Elo difference is at most elo0, against H1, that it is at least elo1."""

    elo0: float = 0.0
    elo1: float = 30.0
    alpha: float = 0.05  # how often H1 may be accepted at elo0
    beta: float = 0.05  # how often H0 may be accepted at elo1

    def verdict(self, results: Any) -> Verdict:
        """Return where the test stands; UsageError for settings out of range."""
        try:
            return sprt(results, **dataclasses.asdict(self))
        except ValueError as error:
            raise UsageError(f"--elo0, --elo1, --alpha, --beta: {error}") from None


class Tally:
    """Results of `one` against `other`, seen from `one`: of complete pairs [5], and of other games [3]."""

    def __init__(self, one: str, other: str) -> None:
        self.one, self.other, self.forfeits = one, other, 0
        self.pairs, self.rest = np.zeros(5, np.int64), np.zeros(3, np.int64)

    def add(self, matches: Iterable[Match]) -> None:
        """Count matches between the two; all legs of a pair come at once."""
        own = [match for match in matches if match.pairing == tuple(sorted((self.one, self.other)))]
        if own:
            games = collect(own)
            assert isinstance(games, Duels)
            pairs, rest = paired.counts(games, self.one, self.other)
            self.pairs, self.rest = self.pairs + pairs, self.rest + rest
            self.forfeits += sum(match.fault is not None for match in own)

    @property
    def results(self) -> Any:
        """The pairs, where there are complete ones, else the games: losses, draws, wins."""
        return self.pairs if self.pairs.any() else self.rest


def compare(
    tournament: Tournament,
    *,
    workers: int = 1,
    look: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> tuple[Tally, Outcome]:
    """Play pairs until the tournament's test has decided or its schedule is done; what was played before counts.

    The test looks at `batch` more pairs each time, so where it stops is the same whether or not it was interrupted. The
    schedule then ends with what was played. Raises as `conduct`, and UsageError for a test that cannot be.
    """
    plan, tally = tournament.plan(), Tally(*(each.name for each in tournament.entrants))
    hypotheses, batch = tested(tournament)
    hypotheses.verdict(tally.results)
    done = 0  # pairs that are counted

    def missing(played: Mapping[str, Match]) -> list[Task]:
        nonlocal done
        while done < plan.pairs and hypotheses.verdict(tally.results).state == "continue":
            block = range(done, min(done + batch, plan.pairs))
            tasks = [plan.task(plan.names, pair, leg) for pair in block for leg in range(len(plan.legs))]
            if lacking := [task for task in tasks if task.id not in played]:
                return lacking
            tally.add(played[task.id] for task in tasks)
            done = block.stop
        return []

    outcome = conduct(tournament, workers=workers, look=look, progress=progress, missing=missing)
    return tally, dataclasses.replace(outcome, tournament=shorten(tournament, done))


def tested(tournament: Tournament) -> tuple[Hypotheses, int]:
    """Return what a comparison tests, and how many pairs it plays between two looks."""
    assert tournament.test is not None, "no comparison"
    settings = dict(tournament.test)
    return Hypotheses(**{key: value for key, value in settings.items() if key != "batch"}), int(settings["batch"])


def tally_of(tournament: Tournament, matches: Sequence[Match], one: str, other: str) -> Tally:
    """Return the results of two in the matches of a tournament. Raises UsageError where they never met alone."""
    names = [each.name for each in tournament.entrants]
    for name in (one, other):
        if name not in names:
            raise UsageError(f"no entrant {name!r} in {tournament.path}; {nearest(name, names)}")
    tally = Tally(one, other)
    tally.add(matches)
    if one == other or not tally.results.any():
        raise UsageError(f"{tournament.path} has no matches of {one} against {other} alone")
    return tally


def existing(word: str) -> Tournament | None:
    """Return the tournament that a user means, None for a world. Raises UsageError where it is neither."""
    if word in worlds.names() or word.startswith(FOREIGN):
        return None
    try:
        return load(word)
    except UsageError as error:
        if str(error).startswith("no tournament"):
            raise UsageError(f"no world or tournament {word!r}; {nearest(word, worlds.names())}") from None
        raise


def facts(tally: Tally, hypotheses: Hypotheses) -> dict[str, Any]:
    """Return what results say, ready for JSON: `state` is H1 (`one` is stronger), H0 or undecided."""
    verdict = hypotheses.verdict(tally.results)
    whole = bool(tally.pairs.any())
    return {
        "one": tally.one,
        "other": tally.other,
        "state": _STATES.get(verdict.state, verdict.state),
        "stronger": verdict.state == "H1",
        "llr": verdict.llr,
        "bounds": [verdict.lower, verdict.upper],
        **dataclasses.asdict(hypotheses),
        "unit": "pairs" if whole else "games",
        "pentanomial": tally.pairs.tolist() if whole else None,
        "trinomial": None if whole else tally.rest.tolist(),
        "unpaired_games": int(tally.rest.sum()),
        "forfeits": tally.forfeits,
        **paired.compare(tally.results).line(),
    }


def text(found: dict[str, Any]) -> str:
    """Return what `facts` said, for a terminal."""
    one, other, (low, high) = found["one"], found["other"], found["bounds"]
    said = {
        "H1": f"H1 accepted: {one} is stronger than {other}",
        "H0": f"H0 accepted: {one} is not stronger than {other} by {found['elo1']:g} Elo",
        "undecided": f"undecided: {one} may or may not be stronger than {other}",
    }
    settings = f"H0 {found['elo0']:g} Elo, alpha {found['alpha']:g}; H1 {found['elo1']:g} Elo, beta {found['beta']:g}"
    points = ("0", "1/2", "1", "3/2", "2") if found["pentanomial"] else ("0", "1/2", "1")
    counts = found["pentanomial"] or found["trinomial"]
    shown = ", ".join(f"{count:,} of {worth}" for worth, count in zip(points, counts, strict=True))
    lines = [
        said[found["state"]],
        f"  LLR    {found['llr']:.2f}, bounds {low:.2f} and {high:.2f} ({settings})",
        f"  {found['unit']}  {found['trials']:,}: {shown} points",
        f"  score  {found['score']:.1%} ({found['low']:.1%} to {found['high']:.1%})",
        f"  Elo    {_elo(found)}",
        f"  LOS    {found['los']:.2%}",
    ]
    if found["pentanomial"] and found["unpaired_games"]:
        lines.append(f"  {found['unpaired_games']:,} games lack their counterpart with swapped seats and do not count")
    if found["forfeits"]:
        lines.append(f"  FORFEITS: {found['forfeits']:,} matches")
    return "\n".join(lines)


def _elo(found: dict[str, Any]) -> str:
    low, high = (
        f"{end:+.0f}" if end is not None else sign
        for end, sign in ((found["elo_low"], "-inf"), (found["elo_high"], "+inf"))
    )
    if found["elo"] is None:
        return f"infinite, all results are alike ({low} to {high})"
    error = f" +- {found['elo_error']:.0f}" if found["elo_error"] is not None else ""
    return f"{found['elo']:+.0f}{error} ({low} to {high})"
