"""Train an agent in a scenario, measure it, film it and keep it.

SCENARIO is a scenario's name, a YAML file's path, or a world's name. Overrides are key=value:
  agent=dqn  agent.learning_rate=3e-4  world=catch  world.params.speed=2  worlds=64  budget=200000
  seed=3  device=cpu  threads=2  run_dir=PATH  evaluation.episodes=200  checkpoint.seconds=60  video=false
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..scenario import Scenario
    from ..training import Result

NAME = "train"
_LONG = 3.0  # seconds of a first iteration: where it also is most of a training, it has compiled


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("scenario", metavar="SCENARIO")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of key=a,b,c")


def run(given: argparse.Namespace) -> int:
    """Train; with -m every combination, and one table over seeds in the end."""
    from ..scenario import compose, sweep
    from ..training import Interrupted

    target, overrides = _target(given.scenario, given.overrides)
    try:
        if not given.multirun:
            report(_train(compose(target, overrides), given.json), given.json)
            return 0
        results = []
        for scenario in _placed([compose(target, combination) for combination in sweep(overrides)]):
            results.append(_train(scenario, given.json))
            if not given.json:
                print(f"{results[-1].run.path}  mean return {results[-1].summary['mean_return']:.2f}", flush=True)
    except Interrupted as stop:
        return interrupted(stop)
    _report_all(results, given.json)
    return 0


def _target(first: str, overrides: list[str]) -> tuple[str, list[str]]:
    if "=" not in first:
        return first, overrides
    # `rl-lab train world=catch` names no scenario: the world's own.
    named = [o.partition("=")[2] for o in [first, *overrides] if o.startswith("world=")]
    return (named[-1] if named else first), [first, *overrides]


def _train(scenario: Scenario, quiet: bool) -> Result:
    from ..progress import Progress
    from ..training import train

    return train(scenario, [shlex.quote(word) for word in sys.argv], Progress(quiet=quiet))


def interrupted(stop: Any) -> int:
    """Print how to go on after Ctrl-C or SIGTERM; return the exit status."""
    if stop.run is not None:
        where = "before its next checkpoint" if stop.given_up else "at a checkpoint"
        print(f"\nstopped {where}; go on with: rl-lab resume {shlex.quote(str(stop.run.path))}", file=sys.stderr)
    return int(stop.code)


def _placed(scenarios: list[Scenario]) -> list[Scenario]:
    """Give each run of a multirun a folder of its own under run_dir, if one was asked for."""
    import dataclasses
    from pathlib import Path

    placed = []
    for k, s in enumerate(scenarios):
        name = f"{k:03d}-{s.name}-{s.agent}-s{s.seed}"
        placed.append(s if s.run_dir is None else dataclasses.replace(s, run_dir=str(Path(s.run_dir) / name)))
    return placed


def report(result: Result, as_json: bool) -> None:
    """Print what a run came to, where everything is, and what to type next."""
    if as_json:
        print(json.dumps(result.as_json()))
        return
    from ..evaluate import table

    path = result.run.path
    print(table(result.summary))
    print(f"\n  trained {_pace(result)}")
    expected = result.scenario.expect.get(result.scenario.agent)
    if expected is not None:
        reached = "reached" if result.summary["mean_return"] >= expected.mean_return else "NOT reached"
        print(f"  expected {expected.mean_return:g}: {reached}  ({expected.source})")
    print(f"\n  run      {path}\n  agent    {result.run.agent}\n  metrics  {result.run.metrics}")
    for name, video in result.videos.items():
        print(f"  {name:<7}  {video}")
    shown = shlex.quote(str(path))
    print(f"\nnext: rl-lab watch {shown}\n      rl-lab evaluate {shown} evaluation.episodes=1000")
    print(f"      tensorboard --logdir {shown}")


def _report_all(results: list[Result], as_json: bool) -> None:
    from ..stats import across_seeds

    groups: dict[str, list[Result]] = {}
    for result in results:
        config = result.scenario.as_config()
        config.pop("seed")
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(result)
    rows: list[dict[str, Any]] = []
    for members in groups.values():
        scores = across_seeds([r.summary["mean_return"] for r in members])
        scenario = members[0].scenario
        rows.append({"scenario": scenario.name, "agent": scenario.agent, "worlds": scenario.worlds, **scores})
    if as_json:
        print(json.dumps({"runs": [r.as_json() for r in results], "table": rows}))
        return
    header = ("scenario", "agent", "seeds", "mean", "IQM", "95% interval", "median", "min", "max")
    lines = [header]
    for row in rows:
        low, high = row["ci95"]
        numbers = [f"{row[k]:.2f}" for k in ("mean", "iqm")] + [f"{low:.2f} to {high:.2f}"]
        numbers += [f"{row[k]:.2f}" for k in ("median", "min", "max")]
        lines.append((row["scenario"], row["agent"], str(row["seeds"]), *numbers))
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    print("\nmean return of each seed's agent, over seeds")
    for line in lines:
        print(
            "  "
            + "  ".join(
                cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
        )
    for warning in sorted({row["warning"] for row in rows if row["warning"]}):
        print(f"  note: {warning}")


def _pace(result: Result) -> str:
    """Return how many steps were trained in how long; what a first start compiled for is said apart."""
    steps, seconds = result.first
    whole = f"{result.steps:,} steps in {result.seconds:.1f} s"
    if seconds > max(result.seconds / 2, _LONG) and result.steps > steps:
        rate = (result.steps - steps) / max(result.seconds - seconds, 1e-9)
        return f"{whole}: {seconds:.1f} s for the first {steps:,}, compiling included, then {rate:,.0f} steps/s"
    rate = result.steps / result.seconds if result.seconds else 0.0
    return f"{whole} ({rate:,.0f} steps/s)"
