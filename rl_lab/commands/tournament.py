"""Let entrants play against each other in pairs of matches with equal seeds and swapped seats, and rate them.

  rl-lab tournament WORLD ENTRANT ENTRANT...      play, print ratings and tables
  rl-lab tournament resume DIR                    play what is missing; of a comparison, until it is decided
  rl-lab tournament rate DIR                      print them again   [--anchor NAME[=ELO]]
  rl-lab tournament report DIR                    write DIR/report.html, in which games are played   [--games N]
  rl-lab tournament replay DIR MATCH              play one match again, and film it
  rl-lab tournament compare WORLD ENTRANT ENTRANT      pairs until a sequential test (SPRT) has decided
  rl-lab tournament compare DIR NAME NAME              the same test on the matches of a tournament, playing none
compare exits with 0 where the first is the stronger one (H1 accepted), with 1 where it is not (H0) or nothing is
decided after --max-pairs, with 2 for wrong input. An ENTRANT, or NAME=ENTRANT to name it, is one of
  RUN, RUN@STEP, a checkpoint's folder            the best agent of a run, or a checkpoint's (:sample=true samples)
  RUN:average=true                                the average policy of a league
  RUN/league/main_exploiter, .../main@STEP        a snapshot of a league, the newest or that of a step
  random, scripted:strength=novice, mcts:simulations=500       an agent that is not trained, with options
  module:callable, file.py:callable               callable(observation, action_mask) -> action; only this kind runs code
WORLD may be code of your own, FILE.py:NAME; parameters of worlds are world.params.FIELD=VALUE.
DIR is a tournament's folder, or the beginning of its name.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_lab.tournament.compare import Hypotheses
    from rl_lab.tournament.runner import TournamentOutcome
    from rl_lab.tournament.store import Tournament

from rl_lab.engine.user_code import add_option
from rl_lab.tournament.options import add_options, check_ranges

NAME = "tournament"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("target", metavar="WORLD|VERB")
    parser.add_argument("overrides", nargs="*", metavar="ENTRANT")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Play a new tournament, or run the verb."""
    check_ranges(args)
    verbs = {"resume": _resume, "rate": _rate, "replay": _replay, "report": _report, "compare": _compare}
    if args.target in verbs:
        return verbs[args.target](args)
    tournament = _create_tournament(args, args.target, args.overrides, args.schedule, args.pairs)
    return _play_new(tournament, args, _run_tournament)


def _play_new(
    tournament: Tournament, args: argparse.Namespace, play: Callable[[Tournament, argparse.Namespace], int]
) -> int:
    """Play a new tournament; remove its folder where UsageError is raised."""
    from rl_lab.core.errors import UsageError
    from rl_lab.tournament.store import discard
    from rl_lab.tournament.summary import check_anchor

    try:
        check_anchor(args.anchor, [each.name for each in tournament.entrants])
        return play(tournament, args)
    except UsageError:
        discard(tournament)
        raise


def _create_tournament(
    args: argparse.Namespace,
    world: str,
    words: list[str],
    schedule: str,
    pairs: int,
    test: dict[str, float] | None = None,
) -> Tournament:
    """Create the folder of a tournament; `words` are entrants and parameters of the world, `test` is a comparison's."""
    from rl_lab.experiments.overrides import without_plus
    from rl_lab.tournament.parameters import PARAMS, parameters
    from rl_lab.tournament.store import create

    words = [without_plus(word) for word in words]
    return create(
        [word for word in words if not word.startswith(PARAMS)],
        world,
        parameters([word for word in words if word.startswith(PARAMS)]),
        schedule=schedule,
        pairs=pairs,
        rounds=args.rounds,
        seed=args.seed,
        opening=args.opening,
        timeout=args.timeout,
        test=test,
        path=args.dir,
        command=[shlex.quote(word) for word in sys.argv],
    )


def _load(args: argparse.Namespace, num_matches: int = 0) -> Tournament:
    """Return the tournament whose folder is the first argument of a verb; `num_matches` arguments follow it."""
    from rl_lab.core.errors import UsageError
    from rl_lab.tournament.store import load
    from rl_lab.tournament.summary import check_anchor

    if len(args.overrides) != 1 + num_matches:
        raise UsageError(f"rl-lab tournament {args.target} takes DIR{' MATCH' * num_matches}")
    tournament = load(args.overrides[0])
    check_anchor(args.anchor, [each.name for each in tournament.entrants])
    return tournament


def _require_code_option(tournament: Tournament, args: argparse.Namespace) -> Tournament:
    """Return the tournament. Raises UsageError where entrants are user code and --code is missing."""
    from rl_lab.core.errors import UsageError

    if tournament.code and not args.code:
        entrant = tournament.code[0]
        raise UsageError(f"entrant {entrant.name} is code ({entrant.spec}), which runs only if you say so: --code")
    return tournament


def _resume(args: argparse.Namespace) -> int:
    tournament = _require_code_option(_load(args), args)
    return _run_comparison(tournament, args) if tournament.test is not None else _run_tournament(tournament, args)


def _run_tournament(tournament: Tournament, args: argparse.Namespace) -> int:
    """Play the missing matches, and print the summary."""
    from rl_lab.tournament.runner import run_tournament

    return _play_interruptibly(tournament, args, run_tournament, lambda outcome: _print_summary(outcome, args))


def _play_interruptibly(
    tournament: Tournament, args: argparse.Namespace, function: Callable[..., Any], show: Callable[[Any], int]
) -> int:
    """Call a function that plays matches, and return what `show` returns for its result; or a signal's exit status."""
    from rl_lab.core.interrupts import GRACE, Interrupted, Interrupts
    from rl_lab.core.progress import Progress

    with Interrupts() as interrupts:
        try:
            progress = Progress(quiet=args.json, unit="matches")
            interrupts.exit_message = _resume_hint(tournament)
            with interrupts.abort_after(GRACE):
                result = function(tournament, workers=args.workers, poll=interrupts.check, progress=progress)
        except Interrupted as stop:
            print(f"\n{_resume_hint(tournament)}", file=sys.stderr)
            return stop.code
    return show(result)


def _resume_hint(tournament: Tournament) -> str:
    """Return the line that is printed after an interruption."""
    words = f"{_quote_folder(tournament)}{' --code' if tournament.code else ''}"
    return f"stopped; go on with: rl-lab tournament resume {words}"


def _quote_folder(tournament: Tournament) -> str:
    return shlex.quote(str(tournament.path))


def _rate(args: argparse.Namespace) -> int:
    return _print_summary(_current_outcome(_load(args)), args)


def _current_outcome(tournament: Tournament) -> TournamentOutcome:
    """Return the matches of a tournament so far."""
    from rl_lab.tournament.ledger import read
    from rl_lab.tournament.runner import TournamentOutcome

    return TournamentOutcome(tournament, read(tournament.ledger), tournament.make_schedule().total, 0, 0.0)


def _summary(outcome: TournamentOutcome, args: argparse.Namespace) -> dict[str, Any]:
    from rl_lab.tournament.summary import summarize

    return summarize(outcome.tournament, outcome.matches, outcome.total, anchor=args.anchor, intervals=args.intervals)


def _print_summary(outcome: TournamentOutcome, args: argparse.Namespace) -> int:
    from rl_lab.tournament import entrant_output
    from rl_lab.tournament.summary import render_summary

    summary = _summary(outcome, args)
    rate = outcome.num_played / outcome.seconds if outcome.seconds else 0.0
    if args.json:
        print(json.dumps({**summary, "seconds": round(outcome.seconds, 3), "matches_per_second": round(rate, 1)}))
        return 0
    print(render_summary(summary))
    if outcome.num_played:
        print(f"\n  played {outcome.num_played:,} matches in {outcome.seconds:.1f} s ({rate:,.0f} matches/s)")
    if (printed := outcome.tournament.path / entrant_output.LOG_NAME).exists():
        print(f"  prints  {printed}")
    print(
        f"  ledger  {outcome.tournament.ledger}\n  next    rl-lab tournament report {_quote_folder(outcome.tournament)}"
    )
    return 0


def _report(args: argparse.Namespace) -> int:
    """Write the HTML report."""
    from rl_lab.tournament.report import write

    outcome = _current_outcome(_load(args))
    path, recording = write(
        outcome.tournament, outcome.matches, _summary(outcome, args), games=args.games, code=args.code
    )
    if args.json:
        print(json.dumps({"report": str(path), "watchable": len(recording.games), "missing": recording.missing}))
        return 0
    for reason in recording.missing:
        print(f"note: not in the page: {reason}")
    print(f"{path}: {len(recording.games):,} of {len(outcome.matches):,} games can be watched in it")
    return 0


def _compare(args: argparse.Namespace) -> int:
    """Play until the test decides which entrant is stronger, or test the matches of a tournament."""
    from rl_lab.core.errors import UsageError
    from rl_lab.experiments.overrides import without_plus
    from rl_lab.tournament.compare import Hypotheses, count_results_between, find_tournament
    from rl_lab.tournament.parameters import PARAMS

    words = [word for word in map(without_plus, args.overrides) if not word.startswith(PARAMS)]
    if len(words) != 3:
        raise UsageError("rl-lab tournament compare takes WORLD ENTRANT ENTRANT, or DIR NAME NAME")
    hypotheses = Hypotheses(args.elo0, args.elo1, args.alpha, args.beta)
    hypotheses.test([0] * 5)  # raises for settings out of range, before a file is written
    if (existing_tournament := find_tournament(words[0])) is not None:
        outcome = _current_outcome(existing_tournament)
        counts = count_results_between(outcome.tournament, outcome.matches, *words[1:])
        return _print_verdict(counts, hypotheses, outcome, args)
    test = {**dataclasses.asdict(hypotheses), "batch": args.pairs}
    tournament = _create_tournament(args, words[0], args.overrides[1:], "round-robin", args.max_pairs, test)
    return _play_new(tournament, args, _run_comparison)


def _run_comparison(tournament: Tournament, args: argparse.Namespace) -> int:
    """Play a comparison to its end, and print its verdict."""
    from rl_lab.tournament.compare import compare, settings_of_test

    def show(result: tuple[Any, TournamentOutcome]) -> int:
        counts, outcome = result
        return _print_verdict(counts, settings_of_test(tournament)[0], outcome, args)

    return _play_interruptibly(tournament, args, compare, show)


def _print_verdict(counts: Any, hypotheses: Hypotheses, outcome: TournamentOutcome, args: argparse.Namespace) -> int:
    from rl_lab.tournament.compare import comparison_data, render_comparison

    result = comparison_data(counts, hypotheses)
    if args.json:
        print(json.dumps({"dir": str(outcome.tournament.path), "world": outcome.tournament.world, **result}))
    else:
        print(f"{render_comparison(result)}\n  ledger {outcome.tournament.ledger}")
    return 0 if result["stronger"] else 1


def _replay(args: argparse.Namespace) -> int:
    from rl_lab.tournament.replay import replay

    tournament = _require_code_option(_load(args, 1), args)
    replayed = replay(tournament, args.overrides[1], out=args.dir)
    match, video = replayed.match, replayed.video
    if args.json:
        result = {"id": match.id, "video": str(video) if video else None, "changed": replayed.changed_entrants}
        print(json.dumps({**result, "trace": match.trace}))
        return 0
    for name in replayed.changed_entrants:
        print(f"note: {name} has changed since, and played the same")
    print(f"{match.id} came out as before: trace {match.trace[:16]}")
    print(video or f"  a forfeit by {match.fault and match.fault.entrant}: no film")
    return 0
