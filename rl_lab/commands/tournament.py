"""Let entrants play each other: pairs of matches with equal seeds and swapped seats, kept in a ledger and rated.

  rl-lab tournament WORLD ENTRANT ENTRANT...      play, print ratings and tables
  rl-lab tournament resume DIR                    play what is missing; of a comparison, until it is decided
  rl-lab tournament rate DIR                      print them again   [--anchor NAME[=ELO]]
  rl-lab tournament report DIR                    write DIR/report.html, in which games are played   [--games N]
  rl-lab tournament replay DIR MATCH              play one match again, and film it
  rl-lab tournament compare WORLD ENTRANT ENTRANT      pairs until a sequential test (SPRT) has decided
  rl-lab tournament compare DIR NAME NAME              the same test on the matches of a tournament, playing none
compare exits with 0 where the first is the stronger one (H1 accepted), with 1 where it is not (H0) or nothing is
decided after --max-pairs, with 2 for wrong input. An ENTRANT, or NAME=ENTRANT to name it, is one of
  RUN, RUN@STEP, a checkpoint's folder            the agent a run kept, or that of a checkpoint (:sample=true draws)
  RUN:average=true                                what a league's self-play averages to
  RUN/league/main_exploiter, .../main@STEP        what a league has frozen, the newest or that of a step
  random, scripted:strength=novice, mcts:simulations=500       an agent that needs no training, with options
  module:callable, file.py:callable               callable(observation, legal) -> action; the only kind that runs code
World parameters are world.params.FIELD=VALUE. DIR is a tournament's folder, or the beginning of its name.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..tournament.compare import Hypotheses
    from ..tournament.conduct import Outcome
    from ..tournament.folder import Tournament

NAME = "tournament"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("target", metavar="WORLD|VERB")
    parser.add_argument("overrides", nargs="*", metavar="ENTRANT")
    parser.add_argument("--schedule", default="round-robin", help="round-robin, gauntlet, swiss or adaptive")
    parser.add_argument(
        "--pairs", type=int, default=50, metavar="N", help="each time entrants meet, or compare looks (50)"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="of a swiss or adaptive schedule")
    parser.add_argument("--opening", type=int, default=0, metavar="N", help="random steps at the start of a pair (0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (1)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="processor seconds a move, 0: any (60)"
    )
    parser.add_argument("--dir", type=Path, metavar="PATH", help="a new folder; runs/tournaments/... by default")
    parser.add_argument("--code", action="store_true", help="resume, replay, report: run entrants that are functions")
    parser.add_argument("--anchor", default="", metavar="NAME[=ELO]", help="whose rating is given (0)")
    parser.add_argument("--intervals", default="sandwich", help="of ratings: sandwich or bootstrap, over pairs")
    parser.add_argument("--games", type=int, default=200, metavar="N", help="report: that can be watched in it (200)")
    for name, usual, said in (
        ("elo0", 0.0, "H0, at most so much better"),
        ("elo1", 30.0, "H1, at least so much better"),
        ("alpha", 0.05, "how often H1 may be wrong"),
        ("beta", 0.05, "how often H0 may be wrong"),
    ):
        parser.add_argument(f"--{name}", type=float, default=usual, metavar="X", help=f"compare: {said} ({usual:g})")
    parser.add_argument("--max-pairs", type=int, default=5000, metavar="N", help="compare: when to give up (5000)")


def run(given: argparse.Namespace) -> int:
    """Play, or do what the verb says."""
    from ..names import UsageError

    for option, least in (("workers", 1), ("pairs", 1), ("games", 0), ("max_pairs", 1)):
        if getattr(given, option) < least:
            raise UsageError(f"--{option.replace('_', '-')} is {getattr(given, option)}: expected {least} or more")
    verbs = {"resume": _resume, "rate": _rate, "replay": _replay, "report": _report, "compare": _compare}
    if given.target in verbs:
        return verbs[given.target](given)
    return _conduct(_create(given, given.target, given.overrides, given.schedule, given.pairs), given)


def _create(
    given: argparse.Namespace,
    world: str,
    words: list[str],
    schedule: str,
    pairs: int,
    test: dict[str, float] | None = None,
) -> Tournament:
    from ..tournament.folder import PARAMS, create, parameters

    return create(
        [word for word in words if not word.startswith(PARAMS)],
        world,
        parameters([word for word in words if word.startswith(PARAMS)]),
        schedule=schedule,
        pairs=pairs,
        rounds=given.rounds,
        seed=given.seed,
        opening=given.opening,
        timeout=given.timeout,
        test=test,
        path=given.dir,
        command=[shlex.quote(word) for word in sys.argv],
    )


def _folder(given: argparse.Namespace, more: int = 0) -> Tournament:
    """Return the tournament that a verb is about."""
    from ..names import UsageError
    from ..tournament.folder import load

    if len(given.overrides) != 1 + more:
        raise UsageError(f"rl-lab tournament {given.target} takes DIR{' MATCH' * more}")
    return load(given.overrides[0])


def _trusted(tournament: Tournament, given: argparse.Namespace) -> Tournament:
    """Return the tournament; UsageError where it has entrants that are code, and nobody said that it may run."""
    from ..names import UsageError

    if tournament.code and not given.code:
        shown = tournament.code[0]
        raise UsageError(f"entrant {shown.name} is code ({shown.spec}), which runs only if you say so: --code")
    return tournament


def _resume(given: argparse.Namespace) -> int:
    tournament = _trusted(_folder(given), given)
    return _test(tournament, given) if tournament.test is not None else _conduct(tournament, given)


def _conduct(tournament: Tournament, given: argparse.Namespace) -> int:
    """Play what is missing and print what it says."""
    from ..interrupts import Interrupted, Interrupts
    from ..progress import Progress
    from ..tournament.conduct import conduct

    with Interrupts() as interrupts:
        try:
            progress = Progress(quiet=given.json, unit="matches")
            outcome = conduct(tournament, workers=given.workers, look=interrupts.check, progress=progress)
        except Interrupted as stop:
            return _stopped(tournament, stop.code)
    _print(outcome, given)
    return 0


def _stopped(tournament: Tournament, code: int) -> int:
    words = f"{_quoted(tournament)}{' --code' if tournament.code else ''}"
    print(f"\nstopped; go on with: rl-lab tournament resume {words}", file=sys.stderr)
    return code


def _quoted(tournament: Tournament) -> str:
    return shlex.quote(str(tournament.path))


def _rate(given: argparse.Namespace) -> int:
    _print(_stand(_folder(given)), given)
    return 0


def _stand(tournament: Tournament) -> Outcome:
    """Return where a tournament stands."""
    from ..tournament.conduct import Outcome
    from ..tournament.ledger import read

    return Outcome(tournament, read(tournament.ledger), tournament.plan().total, 0, 0.0)


def _summary(outcome: Outcome, given: argparse.Namespace) -> dict[str, Any]:
    from ..tournament.summary import summary

    return summary(outcome.tournament, outcome.matches, outcome.total, anchor=given.anchor, intervals=given.intervals)


def _print(outcome: Outcome, given: argparse.Namespace) -> None:
    from ..tournament.summary import text

    found = _summary(outcome, given)
    rate = outcome.played / outcome.seconds if outcome.seconds else 0.0
    if given.json:
        print(json.dumps({**found, "seconds": round(outcome.seconds, 3), "matches_per_second": round(rate, 1)}))
        return
    print(text(found))
    if outcome.played:
        print(f"\n  played {outcome.played:,} matches in {outcome.seconds:.1f} s ({rate:,.0f} matches/s)")
    print(f"  ledger  {outcome.tournament.ledger}\n  next    rl-lab tournament report {_quoted(outcome.tournament)}")


def _report(given: argparse.Namespace) -> int:
    """Write the page."""
    from ..tournament.report import write

    outcome = _stand(_folder(given))
    path, recording = write(
        outcome.tournament, outcome.matches, _summary(outcome, given), games=given.games, code=given.code
    )
    if given.json:
        print(json.dumps({"report": str(path), "watchable": len(recording.games), "missing": recording.missing}))
        return 0
    for reason in recording.missing:
        print(f"note: not in the page: {reason}")
    print(f"{path}: {len(recording.games):,} of {len(outcome.matches):,} games can be watched in it")
    return 0


def _compare(given: argparse.Namespace) -> int:
    """Play until it is decided who is stronger, or look at matches that there are."""
    from ..names import UsageError
    from ..tournament.compare import Hypotheses, existing, tally_of
    from ..tournament.folder import PARAMS

    words = [word for word in given.overrides if not word.startswith(PARAMS)]
    if len(words) != 3:
        raise UsageError("rl-lab tournament compare takes WORLD ENTRANT ENTRANT, or DIR NAME NAME")
    hypotheses = Hypotheses(given.elo0, given.elo1, given.alpha, given.beta)
    hypotheses.verdict([0] * 5)  # settings out of range are refused before anything is written
    if (finished := existing(words[0])) is not None:
        outcome = _stand(finished)
        return _decided(tally_of(outcome.tournament, outcome.matches, *words[1:]), hypotheses, outcome, given)
    test = {**dataclasses.asdict(hypotheses), "batch": given.pairs}
    return _test(_create(given, words[0], given.overrides[1:], "round-robin", given.max_pairs, test), given)


def _test(tournament: Tournament, given: argparse.Namespace) -> int:
    """Play a comparison to its end."""
    from ..interrupts import Interrupted, Interrupts
    from ..progress import Progress
    from ..tournament.compare import compare, tested

    with Interrupts() as interrupts:
        try:
            progress = Progress(quiet=given.json, unit="matches")
            tally, outcome = compare(tournament, workers=given.workers, look=interrupts.check, progress=progress)
        except Interrupted as stop:
            return _stopped(tournament, stop.code)
    return _decided(tally, tested(tournament)[0], outcome, given)


def _decided(tally: Any, hypotheses: Hypotheses, outcome: Outcome, given: argparse.Namespace) -> int:
    from ..tournament.compare import facts, text

    found = facts(tally, hypotheses)
    if given.json:
        print(json.dumps({"dir": str(outcome.tournament.path), "world": outcome.tournament.world, **found}))
    else:
        print(f"{text(found)}\n  ledger {outcome.tournament.ledger}")
    return 0 if found["stronger"] else 1


def _replay(given: argparse.Namespace) -> int:
    from ..tournament.replay import replay

    tournament = _trusted(_folder(given, 1), given)
    again = replay(tournament, given.overrides[1], out=given.dir)
    if given.json:
        shown = {"id": again.match.id, "video": str(again.video) if again.video else None, "changed": again.changed}
        print(json.dumps({**shown, "trace": again.match.trace}))
        return 0
    for name in again.changed:
        print(f"note: {name} has changed since, and played the same")
    print(f"{again.match.id} came out as before: trace {again.match.trace[:16]}")
    print(again.video if again.video else f"  a forfeit by {again.match.fault and again.match.fault.entrant}: no film")
    return 0
