"""This module defines the options of `rl-lab tournament` on the command line, and checks the ranges of their values.

`commands.tournament` calls `add_options` when the parser is made, and `check_ranges` before a verb runs. The heavy
imports are within functions, because `rl-lab --help` imports this module.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl_lab.learners.rllib.ray_workers import RayWorkers


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of play, resume, replay, rate, compare and report; the help names those that take only some."""
    parser.add_argument("--schedule", default="round-robin", help="round-robin, gauntlet, swiss or adaptive")
    parser.add_argument(
        "--pairs",
        type=int,
        default=50,
        metavar="N",
        help="pairs of games each time two entrants meet, and between two evaluations of compare's test (50)",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of a swiss or adaptive schedule")
    parser.add_argument("--opening", type=int, default=0, metavar="N", help="random steps at the start of a pair (0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--workers", default="1", metavar="N", help="processes (1); ray or ray:N: on a Ray cluster")
    parser.add_argument("--cluster", metavar="C", help="with --workers ray: local, auto or HOST:PORT (local)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="processor seconds a move, 0: any (60)"
    )
    parser.add_argument("--dir", type=Path, metavar="PATH", help="a new folder; runs/tournaments/... by default")
    parser.add_argument("--code", action="store_true", help="resume, replay, report: run entrants that are functions")
    parser.add_argument("--anchor", default="", metavar="NAME[=ELO]", help="entrant with a fixed rating (0)")
    parser.add_argument(
        "--intervals",
        choices=("sandwich", "bootstrap"),
        default="sandwich",
        help="how the intervals of ratings are estimated (sandwich)",
    )
    parser.add_argument(
        "--games", type=int, default=200, metavar="N", help="report: games that can be watched in it (200)"
    )
    for name, default, text in (
        ("elo0", 0.0, "H0, at most so much better"),
        ("elo1", 30.0, "H1, at least so much better"),
        ("alpha", 0.05, "how often H1 may be wrong"),
        ("beta", 0.05, "how often H0 may be wrong"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=default, metavar="X", help=f"compare: {text} ({default:g})"
        )
    parser.add_argument("--max-pairs", type=int, default=5000, metavar="N", help="compare: when to give up (5000)")


def check_ranges(args: argparse.Namespace) -> None:
    """Check the counts in `args`, and replace `args.workers`, a str, by an int or `RayWorkers`.

    Raises UsageError for a count out of range and for other words.
    """
    from rl_lab.core.errors import UsageError

    args.workers = _workers(args.workers, args.cluster)
    max_workers = max(64, 4 * (os.cpu_count() or 1))
    limits = {"workers": (1, max_workers), "pairs": (1, 10**9), "games": (0, 10**9), "max_pairs": (1, 10**9)}
    for option, (low, high) in limits.items():
        value = getattr(args, option)
        if isinstance(value, int) and not low <= value <= high:
            expected = f"{low} or more" if value < low else f"at most {high:,}"
            raise UsageError(f"--{option.replace('_', '-')} is {value}: expected {expected}")


def _workers(text: str, cluster: str | None) -> int | RayWorkers:
    """Return the workers that --workers and --cluster ask for. Raises UsageError for other words."""
    from rl_lab.core.errors import UsageError, one_line
    from rl_lab.learners.rllib.ray_workers import parse_workers

    workers = parse_workers(text, cluster or "local")
    if workers is not None:
        return workers
    if cluster is not None:
        raise UsageError(f"--cluster {one_line(cluster)} goes with --workers ray")
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--workers {one_line(text)}: expected a number, ray or ray:N") from None
