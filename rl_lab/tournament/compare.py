"""This module compares two entrants: it plays pairs of matches until a sequential probability ratio test decides.

`compare` runs a tournament of two entrants (`runner`) with `next_tasks` that returns [] when `rating.sprt` has decided;
it then shortens the schedule in the tournament's folder. `count_results_between` takes the matches of a tournament that
was played before. `comparison_data` makes a dictionary for JSON of the counts, `render_comparison` text for a terminal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.core.errors import UsageError, nearest
from rl_lab.core.progress import Progress
from rl_lab.engine import world_registry
from rl_lab.experiments.scenario_yaml import is_world
from rl_lab.learners.rllib.ray_workers import RayWorkers
from rl_lab.rating import head_to_head
from rl_lab.rating.results import PairwiseResults, convert_matches
from rl_lab.rating.sprt import SprtState, sprt
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.runner import TournamentOutcome, run_tournament
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.store import Tournament, load, truncate_schedule
from rl_lab.tournament.summary import MIN_DISTINCT_SHARE

_MAX_ELO = 2000  # largest difference of a hypothesis; it corresponds to a score of 0.99999


@dataclass(frozen=True)
class Hypotheses:
    """The hypotheses of the test: H0, the Elo difference is at most elo0; H1, it is at least elo1."""

    elo0: float = 0.0
    elo1: float = 30.0
    alpha: float = 0.05  # probability of accepting H1 where the difference is elo0
    beta: float = 0.05  # probability of accepting H0 where the difference is elo1

    def test(self, results: Any) -> SprtState:
        """Return the state of the test for `ResultCounts.results`. Raises UsageError for settings out of range."""
        for name in ("elo0", "elo1"):
            if not abs(getattr(self, name)) <= _MAX_ELO:
                raise UsageError(f"--{name} is {getattr(self, name):g}: expected {-_MAX_ELO} to {_MAX_ELO} Elo points")
        try:
            return sprt(results, **dataclasses.asdict(self))
        except ValueError as error:
            raise UsageError(f"--elo0, --elo1, --alpha, --beta: {error}") from None


class ResultCounts:
    """Results of `one` against `other`: counts of complete pairs, int64 [5], and of other games, int64 [3].

    Pairs are counted by the points of `one`, 0 to 2 in steps of 1/2; games by loss, draw and win of `one`.
    """

    def __init__(self, one: str, other: str) -> None:
        self.one, self.other, self.num_forfeits = one, other, 0
        self.pairs, self.single_games = np.zeros(5, np.int64), np.zeros(3, np.int64)
        self.num_games = 0
        self.distinct_games = set[tuple[tuple[str, ...], str]]()  # entrants at the seats, and hash of the actions

    def add(self, matches: Iterable[Match]) -> None:
        """Count the matches between the two; all matches of a pair must be in the same call."""
        direct = [match for match in matches if match.pairing == tuple(sorted((self.one, self.other)))]
        if direct:
            games = convert_matches(direct)
            assert isinstance(games, PairwiseResults)
            pairs, single_games = head_to_head.count_results(games, self.one, self.other)
            self.pairs, self.single_games = self.pairs + pairs, self.single_games + single_games
            self.num_forfeits += sum(match.fault is not None for match in direct)
            self.num_games += len(direct)
            self.distinct_games |= {(match.entrants, match.trace) for match in direct}

    @property
    def results(self) -> Any:
        """Return the counts of pairs where there are complete pairs, else those of games."""
        return self.pairs if self.pairs.any() else self.single_games


def compare(
    tournament: Tournament,
    *,
    workers: int | RayWorkers = 1,
    poll: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> tuple[ResultCounts, TournamentOutcome]:
    """Play pairs until the tournament's test decides or its schedule is complete; pairs of earlier runs count.

    The test is evaluated after every `batch` pairs, so it stops at the same pair whether or not it was interrupted. The
    schedule is then shortened to the pairs that were played.

    Raises:
        UsageError: the settings of the test are out of range; other exceptions are those of `run_tournament`.
    """
    schedule, counts = tournament.make_schedule(), ResultCounts(*(each.name for each in tournament.entrants))
    hypotheses, batch = settings_of_test(tournament)
    hypotheses.test(counts.results)  # raises for settings out of range
    num_counted = 0  # pairs in `counts`
    truncated: list[Tournament] = []  # the tournament with its final number of pairs

    def next_tasks(matches: Mapping[str, Match]) -> list[Task]:
        """Count the blocks of pairs that have been played; return the tasks of the next one, or [] at the end."""
        nonlocal num_counted
        while num_counted < schedule.pairs and hypotheses.test(counts.results).state == "continue":
            block = range(num_counted, min(num_counted + batch, schedule.pairs))
            tasks = [
                schedule.task(schedule.names, pair, leg)
                for pair in block
                for leg in range(len(schedule.seat_rotations))
            ]
            if unplayed := [task for task in tasks if task.id not in matches]:
                return unplayed
            counts.add(matches[task.id] for task in tasks)
            num_counted = block.stop
        truncated.append(truncate_schedule(tournament, num_counted))  # while the tournament's folder is locked
        return []

    outcome = run_tournament(tournament, workers=workers, poll=poll, progress=progress, next_tasks=next_tasks)
    return counts, dataclasses.replace(outcome, tournament=truncated[-1])


def settings_of_test(tournament: Tournament) -> tuple[Hypotheses, int]:
    """Return the hypotheses of a comparison's test, and the number of pairs between two evaluations of it."""
    assert tournament.test is not None, "the tournament is not a comparison"
    settings = dict(tournament.test)
    return Hypotheses(**{key: value for key, value in settings.items() if key != "batch"}), int(settings["batch"])


def count_results_between(tournament: Tournament, matches: Sequence[Match], one: str, other: str) -> ResultCounts:
    """Return the results of two entrants of a tournament.

    Raises UsageError for unknown names, and where they have no match without other entrants.
    """
    names = [each.name for each in tournament.entrants]
    for name in (one, other):
        if name not in names:
            raise UsageError(f"no entrant {name!r} in {tournament.path}; {nearest(name, names)}")
    counts = ResultCounts(one, other)
    counts.add(matches)
    if one == other or not counts.results.any():
        raise UsageError(f"{tournament.path} has no matches of {one} against {other} alone")
    return counts


def find_tournament(word: str) -> Tournament | None:
    """Return the tournament that a word names, or None for the name of a world. Raises UsageError for another word."""
    if word in world_registry.names() or is_world(word):
        return None
    try:
        return load(word)
    except UsageError as error:
        if str(error).startswith("no tournament"):
            raise UsageError(f"no world or tournament {word!r}; {nearest(word, world_registry.names())}") from None
        raise


def comparison_data(counts: ResultCounts, hypotheses: Hypotheses) -> dict[str, Any]:
    """Return the results as a dictionary for JSON; `state` is "H1" (`one` is stronger), "H0" or "undecided".

    `different` is the number of games with different sequences of actions.
    """
    state = hypotheses.test(counts.results)
    has_pairs = bool(counts.pairs.any())
    return {
        "one": counts.one,
        "other": counts.other,
        "state": "undecided" if state.state == "continue" else state.state,
        "stronger": state.state == "H1",
        "llr": state.llr,
        "bounds": [state.lower, state.upper],
        **dataclasses.asdict(hypotheses),
        "unit": "pairs" if has_pairs else "games",
        "pentanomial": counts.pairs.tolist() if has_pairs else None,
        "trinomial": None if has_pairs else counts.single_games.tolist(),
        "unpaired_games": int(counts.single_games.sum()),
        "forfeits": counts.num_forfeits,
        "games": counts.num_games,
        "different": len(counts.distinct_games),
        **head_to_head.compare(counts.results).to_dict(),
    }


def render_comparison(values: dict[str, Any]) -> str:
    """Return the dictionary that `comparison_data` returns as text for a terminal."""
    one, other, (low, high) = values["one"], values["other"], values["bounds"]
    conclusions = {
        "H1": f"H1 accepted: {one} is stronger than {other}",
        "H0": f"H0 accepted: {one} is not stronger than {other} by {values['elo1']:g} Elo",
        "undecided": f"undecided: {one} may or may not be stronger than {other}",
    }
    settings = (
        f"H0 {values['elo0']:g} Elo, alpha {values['alpha']:g}; H1 {values['elo1']:g} Elo, beta {values['beta']:g}"
    )
    points = ("0", "1/2", "1", "3/2", "2") if values["pentanomial"] else ("0", "1/2", "1")
    counts = values["pentanomial"] or values["trinomial"]
    listing = ", ".join(f"{count:,} of {result}" for result, count in zip(points, counts, strict=True))
    lines = [
        conclusions[values["state"]],
        f"  LLR    {values['llr']:.2f}, bounds {low:.2f} and {high:.2f} ({settings})",
        f"  {values['unit']}  {values['trials']:,}: {listing} points",
        f"  score  {values['score']:.1%} ({values['low']:.1%} to {values['high']:.1%})",
        f"  Elo    {_elo(values)}",
        f"  LOS    {values['los']:.2%}",
    ]
    if values["pentanomial"] and values["unpaired_games"]:
        lines.append(f"  {values['unpaired_games']:,} games lack their counterpart with swapped seats and do not count")
    if values["different"] < MIN_DISTINCT_SHARE * values["games"]:
        lines.append(
            f"  only {values['different']:,} different games of {values['games']:,}: intervals, which count each, are"
        )
        lines.append("  too narrow; deterministic entrants repeat themselves, see --opening")
    if values["forfeits"]:
        lines.append(f"  FORFEITS: {values['forfeits']:,} matches")
    return "\n".join(lines)


def _elo(values: dict[str, Any]) -> str:
    low, high = (
        f"{end:+.0f}" if end is not None else sign
        for end, sign in ((values["elo_low"], "-inf"), (values["elo_high"], "+inf"))
    )
    if values["elo"] is None:
        return f"infinite, all results are alike ({low} to {high})"
    error = f" +- {values['elo_error']:.0f}" if values["elo_error"] is not None else ""
    return f"{values['elo']:+.0f}{error} ({low} to {high})"
