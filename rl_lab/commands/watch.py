"""Watch an agent play: in a window where there is a display, else in a file.

TARGET is a run (RUN, or RUN@STEP for its checkpoint of that step), the folder of a checkpoint in a run, or an agent
that needs no training with world=NAME; or a world's name with --agents NAME, or --agents NAME,NAME for one and its
opponent (rl-lab watch arena --agents scripted).
Keys in the window: space pauses, right steps once, up and down change the speed, r restarts, q quits.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rl_lab.engine.user_code import add_option

NAME = "watch"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--agents", metavar="NAME[,NAME]", help="the players, where TARGET is a world")
    parser.add_argument("--grid", type=int, metavar="N", help="show N worlds at once")
    parser.add_argument("--episodes", type=int, metavar="N", help="one in a file, without end in a window, by default")
    parser.add_argument("--file", action="store_true", help="render a file even where there is a display")
    parser.add_argument("--out", type=Path, help="folder of the file; a run's videos by default")


def run(args: argparse.Namespace) -> int:
    """Show the agent in a window, or write videos and print their paths."""
    from rl_lab.core.errors import UsageError
    from rl_lab.core.files import require_writable
    from rl_lab.evaluation.action_modes import evaluation_modes, opponent_is_deterministic
    from rl_lab.evaluation.watch import watch
    from rl_lab.experiments.agent_targets import find_agent
    from rl_lab.experiments.build import make_opponent

    if (args.grid is not None and not 1 <= args.grid <= 256) or (args.episodes is not None and args.episodes < 1):
        raise UsageError("--grid is 1 to 256 worlds, --episodes at least 1")
    target, overrides = args.target, args.overrides
    if (args.file or args.out) and (name := next((word for word in overrides if "=" not in word), None)):
        raise UsageError(f"{name} is no key=value; --file takes no name: --out FOLDER says where the file is written")
    if args.agents is not None:
        target, _, opponent = args.agents.partition(",")
        overrides = [f"world={args.target}", *([f"opponent={opponent}"] if opponent else []), *overrides]
    agent, scenario, trained_run, _ = find_agent(target, overrides)
    config = scenario.evaluation
    modes = evaluation_modes(agent, config.actions, deterministic=config.deterministic)
    folder = args.out or (trained_run.videos if trained_run else Path("videos"))
    if args.out is not None:
        require_writable(args.out, "--out")
    paths = watch(
        agent,
        scenario.world,
        scenario.params,
        out=folder,
        window=False if args.file or args.out or args.json else None,
        grid=args.grid,
        episodes=args.episodes,
        opponent=make_opponent(scenario),
        role=scenario.role,
        deterministic=modes[0],
        opponent_deterministic=opponent_is_deterministic(modes),
    )
    if args.json:
        print(json.dumps({"videos": [str(path) for path in paths]}))
    else:
        for path in paths:
            print(path)
    return 0
