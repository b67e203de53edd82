"""Watch an agent play: in a window where there is a display, else in a file.

TARGET is a run's folder, a checkpoint's folder inside one, or an agent that needs no training with world=NAME; or a
world's name with --agents NAME, or --agents NAME,NAME for one and its opponent (rl-lab watch arena --agents scripted).
Keys in the window: space pauses, right steps once, up and down change the speed, r restarts, q quits.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

NAME = "watch"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--agents", metavar="NAME[,NAME]", help="who plays, where TARGET is a world, and against whom")
    parser.add_argument("--grid", type=int, metavar="N", help="show N worlds at once")
    parser.add_argument("--episodes", type=int, metavar="N", help="one in a file, without end in a window, by default")
    parser.add_argument("--file", action="store_true", help="render a file even where there is a display")
    parser.add_argument("--out", type=Path, help="folder of the file; a run's videos by default")


def run(given: argparse.Namespace) -> int:
    """Show or render."""
    from ..assembly import make_opponent
    from ..names import UsageError
    from ..watch import watch
    from .evaluate import find_agent

    if (given.grid is not None and not 1 <= given.grid <= 256) or (given.episodes is not None and given.episodes < 1):
        raise UsageError("--grid is 1 to 256 worlds, --episodes at least 1")
    target, overrides = given.target, given.overrides
    if given.agents is not None:
        target, _, rival = given.agents.partition(",")
        overrides = [f"world={given.target}", *([f"opponent={rival}"] if rival else []), *overrides]
    agent, scenario, found, _ = find_agent(target, overrides)
    folder = given.out or (found.videos if found else Path("videos"))
    paths = watch(
        agent,
        scenario.world,
        scenario.params,
        out=folder,
        window=False if given.file or given.out or given.json else None,
        grid=given.grid,
        episodes=given.episodes,
        opponent=make_opponent(scenario),
        role=scenario.role,
        deterministic=scenario.evaluation.deterministic,
    )
    if given.json:
        print(json.dumps({"videos": [str(path) for path in paths]}))
    else:
        for path in paths:
            print(path)
    return 0
