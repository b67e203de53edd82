"""Evaluate an agent in a fixed number of episodes, whose seeds training does not use.

TARGET is a run (RUN: its best agent; RUN@STEP: its checkpoint of that step), the folder of a checkpoint in a run, or
an agent that is not trained:
  rl-lab evaluate runs/cartpole-ppo-s0-...      rl-lab evaluate scripted world=cartpole
Overrides are those of train: evaluation.episodes=1000  evaluation.actions=sampled  world.params.gravity=5
On a Ray cluster: workers=ray or workers=ray:N  cluster=local, auto or HOST:PORT
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl_lab.evaluation.episodes import PlayPlans
    from rl_lab.experiments.run_dir import Run
    from rl_lab.experiments.scenario import Scenario
    from rl_lab.learners.rllib.ray_workers import RayWorkers

from rl_lab.engine.user_code import add_option

NAME = "evaluate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=Path, help="folder for episodes.jsonl and summary.json; a run's own by default")
    parser.add_argument("--video", action="store_true", help="record videos of the best, median and worst episode")
    parser.add_argument("--require-video", action="store_true", help="exit with status 1 if a video cannot be made")


def run(args: argparse.Namespace) -> int:
    """Evaluate the agent, and print and save the result."""
    from rl_lab.commands.train import show_failures
    from rl_lab.core.files import require_writable
    from rl_lab.evaluation.episode_videos import VideoFiles, film_evaluation
    from rl_lab.evaluation.episodes import play_in_this_process
    from rl_lab.evaluation.evaluate import table
    from rl_lab.experiments.agent_targets import find_agent, is_evaluated_as_trained
    from rl_lab.experiments.build import evaluate_scenario
    from rl_lab.learners.rllib.ray_workers import take_workers

    workers, overrides = take_workers(args.overrides)
    agent, scenario, run, step = find_agent(args.target, overrides)
    if args.out is not None:
        require_writable(args.out, "--out")
    play = play_in_this_process if workers is None else _play_on_ray(workers, args.target, scenario, run)
    evaluation = evaluate_scenario(agent, scenario, None if args.json else _show_progress, play)
    out = args.out
    if out is None and run is not None and is_evaluated_as_trained(scenario, run):
        out = run.evaluation(step)
    if out is not None:
        evaluation.save(out)
    if not args.json:
        print(table(evaluation.summary))
        if out is not None:
            print(f"  saved    {out}", flush=True)
    films = VideoFiles({}, {})
    if args.video:
        films = film_evaluation(evaluation, out / "videos" if out is not None else Path("videos"))
        show_failures(films.failures)
    if args.json:
        outputs = {
            "out": str(out) if out else None,
            "videos": {name: str(path) for name, path in films.paths.items()},
            **({"video_failures": films.failures} if films.failures else {}),
        }
        print(json.dumps({**evaluation.summary, **outputs}))
    else:
        for name, path in films.paths.items():
            print(f"  {name:<7}  {path}")
    return int(args.require_video and bool(films.failures))


def _play_on_ray(workers: RayWorkers, target: str, scenario: Scenario, run: Run | None) -> PlayPlans:
    """Return the function that plays the episodes on a Ray cluster. Raises UsageError where Ray is not installed."""
    from rl_lab.experiments.agent_loading import with_trained_seats
    from rl_lab.learners.rllib.requirement import require

    require("workers=ray")  # the module imports Ray
    from rl_lab.experiments.ray_evaluation import RayEvaluation

    if run is None:
        return RayEvaluation(workers, scenario, None, scenario).play
    return RayEvaluation(workers, scenario, target, with_trained_seats(scenario, run.scenario())).play


def _show_progress(done: int, total: int) -> None:
    """Show the number of episodes in one line of stderr, if that is a terminal."""
    if sys.stderr.isatty():
        print(
            f"\r{done:,} / {total:,} episodes",
            end="\r" if done < total else "\n",
            file=sys.stderr,
            flush=True,
        )
