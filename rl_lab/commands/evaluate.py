"""Measure an agent: exactly so many episodes, on seeds that no training sees.

TARGET is a run's folder (the agent it kept), a checkpoint's folder inside one, or an agent that needs no training:
  rl-lab evaluate runs/cartpole-ppo-s0-...      rl-lab evaluate scripted world=cartpole
Overrides are those of train: evaluation.episodes=1000  evaluation.deterministic=false  world.params.gravity=5
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..agent import Agent
    from ..run import Run
    from ..scenario import Scenario

NAME = "evaluate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=Path, help="folder for episodes.jsonl and summary.json; a run's own by default")
    parser.add_argument("--video", action="store_true", help="film the best, median and worst episode")


def run(given: argparse.Namespace) -> int:
    """Evaluate."""
    from ..assembly import measure
    from ..evaluate import table
    from ..film import film_ranked

    agent, scenario, run, step = find_agent(given.target, given.overrides)
    evaluation = measure(agent, scenario, None if given.json else _progress)
    out = given.out
    if out is None and run is not None and not _changed(scenario, run):
        out = run.evaluation(step)
    if out is not None:
        evaluation.save(out)
    videos: dict[str, Path] = {}
    if given.video:
        videos = film_ranked(evaluation, out / "videos" if out is not None else Path("videos"))
    if given.json:
        shown = {
            "out": str(out) if out else None,
            "videos": {name: str(path) for name, path in videos.items()},
        }
        print(json.dumps({**evaluation.summary, **shown}))
        return 0
    print(table(evaluation.summary))
    for name, path in {**({"saved": out} if out else {}), **videos}.items():
        print(f"  {name:<7}  {path}")
    return 0


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(
            f"\r{done:,} / {total:,} episodes",
            end="\r" if done < total else "\n",
            file=sys.stderr,
            flush=True,
        )


def _changed(scenario: Scenario, run: Run) -> bool:
    """Say whether the worlds or the policy's mode are not those of the run: such figures are not the run's own."""
    own = run.scenario()
    same = dataclasses.replace(scenario.evaluation, episodes=own.evaluation.episodes) == own.evaluation
    game = (scenario.opponent, scenario.role) == (own.opponent, own.role)
    return not (same and game and scenario.world == own.world and scenario.params == own.params)


def find_agent(target: str, overrides: list[str]) -> tuple[Agent, Scenario, Run | None, int]:
    """Return the agent meant by a target, the scenario it is for, its run if it has one, and its step.

    Raises UsageError for a target that is none of the three.
    """
    from .. import batch, catalogue
    from ..names import UsageError, nearest
    from ..run import every
    from ..scenario import compose
    from ..trained import load_agent, locate

    path = Path(target)
    if target in catalogue.names():
        scenario = _of_agent(target, overrides, compose)
        factory: Any = catalogue.load(target)
        try:
            worlds = batch.make(scenario.world, 1, scenario.params)
            return factory.make(scenario.config, worlds.world), scenario, None, 0
        except ValueError as error:
            raise UsageError(str(error)) from None
    if not path.exists() and not any(r.path.name.startswith(target) for r in every()):
        known = {*catalogue.names(), *(str(r.path) for r in every())}
        raise UsageError(f"no run or agent {target!r}; {nearest(target, known)}")
    run, folder = locate(target)
    scenario = compose(str(run.path / "config.yaml"), overrides)
    if scenario.agent != run.scenario().agent:
        raise UsageError(f"{target} is a {run.scenario().agent} agent; agent= cannot be changed")
    own = run.scenario()
    if own.role and scenario.role != own.role:
        raise UsageError(f"{target} was trained as {own.role}; role= cannot be changed")
    if scenario.policies != own.policies:
        raise UsageError(f"{target} has its own policies; policies= cannot be changed")
    # Whoever it meets now, it sits where it was trained to sit.
    trained = dataclasses.replace(scenario, opponent=own.opponent, role=own.role, policies=own.policies)
    agent, step = load_agent(folder, trained)
    return agent, scenario, run, step


def _of_agent(name: str, overrides: list[str], compose: Any) -> Any:
    from .. import catalogue
    from ..names import UsageError

    worlds = [o.partition("=")[2] for o in overrides if o.startswith("world=")]
    if not worlds:
        raise UsageError(f"say which world {name} is for: add world=NAME")
    if catalogue.learns(name):
        raise UsageError(f"{name} must be trained first: rl-lab train {worlds[-1]} agent={name}")
    return compose(worlds[-1], [*overrides, f"agent={name}"])
