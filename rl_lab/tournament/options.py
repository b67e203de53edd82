"""The options of `rl-lab tournament`, and the ranges of their values."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all verbs."""
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
    parser.add_argument("--anchor", default="", metavar="NAME[=ELO]", help="entrant with a fixed rating (0)")
    parser.add_argument(
        "--intervals", choices=("sandwich", "bootstrap"), default="sandwich", help="of ratings, over pairs (sandwich)"
    )
    parser.add_argument("--games", type=int, default=200, metavar="N", help="report: that can be watched in it (200)")
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
    """Raise UsageError for a count that is out of range."""
    from rl_lab.core.errors import UsageError

    max_workers = max(64, 4 * (os.cpu_count() or 1))
    limits = {"workers": (1, max_workers), "pairs": (1, 10**9), "games": (0, 10**9), "max_pairs": (1, 10**9)}
    for option, (low, high) in limits.items():
        value = getattr(args, option)
        if not low <= value <= high:
            expected = f"{low} or more" if value < low else f"at most {high:,}"
            raise UsageError(f"--{option.replace('_', '-')} is {value}: expected {expected}")
