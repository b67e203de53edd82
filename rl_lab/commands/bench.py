"""Measure steps per second, alone or beside installed peers on the same work; or how soon a scenario is solved.

KIND is env (worlds only, random actions), rollout (with the policy's inference) or train (end to end).
  rl-lab bench env cartpole --worlds 4096 --vs gymnasium,envpool
  rl-lab bench train cartpole --setting small --vs sb3,sbx,stock
  rl-lab bench train cartpole --setting small --vs sb3 --starts    # cold and warm, to the first update
  rl-lab bench train cartpole --vs rllib                           # rllib_ppo beside RLlib alone
  rl-lab bench rollout cartpole --setting rllib --runners 1,2      # its sampling by so many env runners
KIND solve trains a scenario until it is measured to be solved, seed by seed; key=value as for train.
  rl-lab bench solve cartpole --seeds 10
  rl-lab bench solve cartpole --command                            # all of rl-lab train, from typing to exit
"""

from __future__ import annotations

import argparse
import json
from typing import Any

NAME = "bench"
KINDS = ("env", "rollout", "train", "solve")
_MIN_SEEDS_OF_INTERVAL = 6  # fewer seeds have no 95% interval of the median
_TITLES = {"env": "env-only", "rollout": "rollout", "train": "end-to-end training"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("target", metavar="WORLD", help="a scenario for solve")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the scenario (solve)")
    parser.add_argument("--worlds", type=int, metavar="N", help="in the batch; 4096 for env, 1024 otherwise")
    parser.add_argument(
        "--setting",
        default="",
        metavar="NAME",
        help="the same sizes for all: small, jax, wide, wide1, cnn, flat, dqn, rllib",
    )
    parser.add_argument(
        "--vs",
        default="",
        metavar="PEER,...",
        help="gymnasium, envpool, minatar, mpe2, pettingzoo (env); sb3, sbx, stock, rllib (rollout, train)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of torch in peers; otherwise what is faster for each")
    parser.add_argument("--starts", action="store_true", help="seconds to the first update, cold and warm (train)")
    parser.add_argument(
        "--runners", default="", metavar="N,...", help="numbers of env runners (rollout, setting rllib)"
    )
    parser.add_argument("--fragment", type=int, metavar="T", help="steps of each world in a train batch of --runners")
    parser.add_argument("--seeds", type=int, default=10, help="of solve")
    parser.add_argument("--command", action="store_true", help="time the whole train command (solve)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender has its turn")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print its rows."""
    from rl_lab.core.errors import UsageError

    if args.rounds < 1 or not 0 < args.seconds < 3600 or not 1 <= args.seeds <= 1000:
        raise UsageError("--rounds is at least 1, --seconds more than 0, --seeds 1 to 1000")
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise UsageError("--threads is 1 to 1024")
    # Options and overrides that belong to one kind of benchmark.
    for word, kind, is_set in (
        ("--starts", "train", args.starts),
        ("--command", "solve", args.command),
        ("--runners", "rollout", args.runners),
        ("--fragment", "rollout", args.fragment is not None),
        (" ".join(args.overrides), "solve", args.overrides),
    ):
        if is_set and args.kind != kind:
            raise UsageError(f"{word} is for bench {kind}")
    if args.fragment is not None and not args.runners:
        raise UsageError("--fragment is for --runners")
    rows = _run_solve(args) if args.kind == "solve" else _run_scaling(args) if args.runners else _run_comparison(args)
    if args.json:
        print(json.dumps({"rows": rows}))
    return 0


def _run_comparison(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run and print `bench env`, `rollout` or `train`, or `--starts`; return the rows."""
    from rl_lab.bench.compare import bench
    from rl_lab.bench.settings import SETTINGS
    from rl_lab.bench.startup_time import measure_starts
    from rl_lab.core.errors import UsageError, nearest
    from rl_lab.engine import world_registry

    if args.target not in world_registry.names():
        raise UsageError(f"no world {args.target!r}; {nearest(args.target, world_registry.names())}")
    if args.setting and (args.kind == "env" or args.worlds is not None):
        raise UsageError("--setting is for bench rollout and train, and says how many worlds: leave --worlds out")
    if args.setting and args.setting not in SETTINGS:
        raise UsageError(f"no setting {args.setting!r}; {nearest(args.setting, SETTINGS)}")
    num_envs = args.worlds if args.worlds is not None else 4096 if args.kind == "env" else 1024
    if not 1 <= num_envs < 2**24:
        raise UsageError("--worlds is 1 to 16777215")
    against = tuple(name for name in args.vs.split(",") if name)
    if args.starts:
        if not args.setting:
            raise UsageError(f"--starts needs --setting, one of {', '.join(SETTINGS)}")
        rows = measure_starts(args.target, args.setting, against=against, rounds=args.rounds)
        title = "seconds to the first update"
    else:
        sizes = {"num_envs": num_envs, "setting": args.setting, "threads": args.threads}
        options = {"against": against, "rounds": args.rounds, "seconds": args.seconds, **sizes}
        rows = bench(args.kind, args.target, **options)
        title = f"{_TITLES[args.kind]}, steps per second"
    if not args.json:
        print(f"{args.target}, {title} (median of {args.rounds} rounds, lowest to highest)")
        for row in rows:
            print(_row_text(row))
    return rows


def _run_scaling(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run and print `bench rollout --runners`; return its rows."""
    from rl_lab.bench.compare import check_peers
    from rl_lab.bench.env_runners import long_fragments, scaling
    from rl_lab.bench.settings import setting_by_name
    from rl_lab.core.errors import UsageError

    check_peers("rollout", args.target, ("rllib",))
    counts = [int(text) if text.isdecimal() else 0 for text in args.runners.split(",")]
    setting = setting_by_name(args.setting)
    if not all(1 <= count <= 1024 for count in counts) or setting.agent != "rllib_ppo" or args.vs or args.threads:
        raise UsageError("--runners is a list of numbers from 1 on, for --setting rllib, without --vs and --threads")
    if args.fragment is not None:
        if not 1 <= args.fragment <= 2**16:
            raise UsageError("--fragment is 1 to 65536")
        setting = long_fragments(setting, args.fragment)
    try:
        rows = scaling(args.target, setting, counts, rounds=args.rounds, seconds=args.seconds)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not args.json:
        print(f"{args.target}, rollout, steps per second (median of {args.rounds} rounds, lowest to highest)")
        for row in rows:
            print(_row_text(row))
    return rows


def _run_solve(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run and print `bench solve`; return its rows."""
    from rl_lab.bench.time_to_solve import score_of, solve, time_command
    from rl_lab.experiments.compose import compose

    scenario = compose(args.target, args.overrides)
    if args.command:
        rows = time_command(scenario, [args.target, *args.overrides], seeds=args.seeds)
        if not args.json:
            print("\n".join(map(_row_text, rows)))
        return rows
    if args.json:
        return solve(scenario, seeds=args.seeds)
    print(f"{scenario.name}, {scenario.agent}: until {score_of(scenario):g} is reached, in seconds of training alone")
    rows = solve(scenario, seeds=args.seeds, on_seed=lambda outcome: print(_seed_line(outcome), flush=True))
    total = rows[-1]
    ends = (
        "its 95% interval over seeds"
        if total["seeds"] >= _MIN_SEEDS_OF_INTERVAL
        else "the lowest and the highest: too few for more"
    )
    print(f"  {total['solved']} of {total['seeds']} seeds; median, and {ends}:")
    for name, label in (("training_seconds", "s of training"), ("seconds", "s with evaluation"), ("steps", "steps")):
        print(f"    {_median_text(total[name], ',.0f' if name == 'steps' else '.2f')} {label}")
    print(f"    {total['conditions']}")
    return rows


def _seed_line(outcome: Any) -> str:
    note = "" if outcome.solved else f"   NOT solved: {outcome.score:g} in the end"
    seconds = f"{outcome.training_seconds:7.2f} s  ({outcome.seconds:.2f} s with evaluation)"
    return f"  seed {outcome.seed:<3} {outcome.steps:>11,} steps  {seconds}{note}"


def _median_text(values: dict[str, Any], form: str) -> str:
    """Return a median with its limits; None, for a score that was not reached, is "never"."""
    median, low, high = ("never" if values[k] is None else f"{values[k]:{form}}" for k in ("median", "low", "high"))
    return f"{median}  ({low} to {high})"


def _row_text(row: dict[str, Any]) -> str:
    """Return the two lines of a row: what and how fast; and under which conditions."""
    if "seconds" in row:
        what = f"{row['what']}, {row['start']}" if "start" in row else row["what"]
        return f"  {what:<24} {_median_text(row['seconds'], '.2f')} s\n    {row['conditions']}"
    rate = row["steps_per_second"]
    median, low, high = (_short_rate(rate[key]) for key in ("median", "low", "high"))
    line = f"  {row['what']:<18} {median:>8}/s  {low} to {high}"
    if "ratio" in row:
        ratio = row["ratio"]
        line += f"  rl_lab is {ratio['median']:.1f}x  ({ratio['low']:.1f} to {ratio['high']:.1f})"
    if "speedup" in row:
        speedup = row["speedup"]
        line += f"  {speedup['median']:.2f}x the first  ({speedup['low']:.2f} to {speedup['high']:.2f})"
    if "engine_ratio" in row:
        line += f", its engine {row['engine_ratio']['median']:,.1f}x"
    return (
        f"{line}\n    {row['conditions']}; {row['cores']:.1f} cores busy, first step after {row['cold_seconds']:.2f} s"
    )


def _short_rate(rate: float) -> str:
    """Return a rate with one decimal and k or M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if rate >= unit:
            return f"{rate / unit:.1f} {name}"
    return f"{rate:.0f}"
