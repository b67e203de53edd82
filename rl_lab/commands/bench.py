"""Measure steps per second, alone or beside installed peers on the same work.

KIND is env (worlds only, random actions), rollout (with the policy's inference) or train (end to end).
  rl-lab bench env cartpole --worlds 4096 --vs gymnasium,envpool
  rl-lab bench env cartpole --worlds 8 --vs gymnasium
  rl-lab bench train cartpole --worlds 1024 --vs sb3
"""

from __future__ import annotations

import argparse
import json
from typing import Any

NAME = "bench"
KINDS = ("env", "rollout", "train")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("world", metavar="WORLD")
    parser.add_argument("--worlds", type=int, metavar="N", help="in the batch; 4096 for env, 1024 otherwise")
    parser.add_argument(
        "--vs",
        default="",
        metavar="PEER,...",
        help="gymnasium, envpool, minatar, mpe2, pettingzoo (env); sb3 (rollout, train)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender has its turn")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")


def run(given: argparse.Namespace) -> int:
    """Measure and print."""
    from .. import worlds as by_name
    from ..bench import bench
    from ..names import UsageError, nearest

    if given.world not in by_name.names():
        raise UsageError(f"no world {given.world!r}; {nearest(given.world, by_name.names())}")
    worlds = given.worlds if given.worlds is not None else 4096 if given.kind == "env" else 1024
    if not 1 <= worlds < 2**24 or given.rounds < 1 or not 0 < given.seconds < 3600:
        raise UsageError("--worlds is 1 to 16777215, --rounds at least 1, --seconds more than 0")
    against = tuple(name for name in given.vs.split(",") if name)
    rows = bench(given.kind, given.world, worlds=worlds, against=against, rounds=given.rounds, seconds=given.seconds)
    if given.json:
        print(json.dumps({"rows": rows}))
        return 0
    kind = {"env": "env-only", "rollout": "rollout", "train": "end-to-end training"}[given.kind]
    print(f"{given.world}, {kind}, steps per second (median of {given.rounds} rounds, lowest to highest)")
    for row in rows:
        print(_line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    rate = row["steps_per_second"]
    line = f"  {row['what']:<18} {_short(rate['median']):>8}/s  {_short(rate['low'])} to {_short(rate['high'])}"
    if "ratio" in row:
        ratio = row["ratio"]
        line += f"  rl_lab is {ratio['median']:.1f}x  ({ratio['low']:.1f} to {ratio['high']:.1f})"
    if "engine_ratio" in row:
        line += f", its engine {row['engine_ratio']['median']:,.1f}x"
    return f"{line}\n    {row['conditions']}; first step after {row['cold_seconds']:.2f} s"


def _short(rate: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if rate >= unit:
            return f"{rate / unit:.1f} {name}"
    return f"{rate:.0f}"
