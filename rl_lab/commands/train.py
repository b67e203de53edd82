"""Train an agent in a scenario, evaluate it, record videos of it and save it.

SCENARIO is a scenario's name, a YAML file's path, or a world's name. Overrides are key=value:
  agent=dqn  agent.learning_rate=3e-4  world=catch  world.params.speed=2  worlds=64  budget=200000
  seed=3  device=cpu  threads=2  run_dir=PATH  evaluation.episodes=200  checkpoint.seconds=60  video=false
With -m, on a Ray cluster: workers=ray or workers=ray:N  cluster=local, auto or HOST:PORT
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_lab.experiments.multirun import SweepOutcome, TrainAll
    from rl_lab.experiments.scenario import Scenario
    from rl_lab.experiments.trainer import TrainingResult
    from rl_lab.learners.rllib.ray_workers import RayWorkers

from rl_lab.engine.user_code import add_option

NAME = "train"
# A first iteration of more seconds that takes most of a training has compiled code; its time is then shown apart.
_COMPILING_SECONDS = 3.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    add_option(parser)
    parser.add_argument("scenario", metavar="SCENARIO")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of key=a,b,c")
    parser.add_argument("--require-video", action="store_true", help="exit with status 1 if a video cannot be made")


def run(args: argparse.Namespace) -> int:
    """Train and print the result; with -m, train every combination and print one table."""
    from rl_lab.core.errors import UsageError
    from rl_lab.experiments.compose import compose, target_of
    from rl_lab.experiments.trainer import Interrupted

    target, overrides = _split_target(args.scenario, args.overrides)
    try:
        if args.multirun:
            return _train_each(target, overrides, args)
        if any(line.startswith("workers=") for line in overrides):
            raise UsageError("workers= goes with -m; a training's own processes are agent.env_runners=")
        scenario = compose(target_of(overrides) if target is None else target, overrides)
        result = _train(scenario, args.json, report_nothing if args.json else report)
    except Interrupted as stop:
        return report_interruption(stop)
    report_videos(result, args.json)
    return exit_status([result], args.require_video)


def report_nothing(result: TrainingResult) -> None:
    """Do nothing, in place of `report`."""


def exit_status(results: list[TrainingResult], require_video: bool) -> int:
    """Return 1 where a required video is missing, else 0."""
    return int(require_video and any(result.video_failures for result in results))


def show_failures(failures: dict[str, str]) -> None:
    """Print the reasons why videos could not be made to stderr, one line for each."""
    from rl_lab.evaluation.episode_videos import failure_lines

    for line in failure_lines(failures):
        print(f"rl-lab: {line}", file=sys.stderr, flush=True)


def _train_each(target: str | None, overrides: list[str], args: argparse.Namespace) -> int:
    """Train every combination of swept values; return 1 where one failed."""
    from rl_lab.experiments import multirun
    from rl_lab.experiments.overrides import sweep_combinations
    from rl_lab.learners.rllib.ray_workers import take_workers

    def train_one(scenario: Scenario) -> TrainingResult:
        return _train(scenario, args.json)

    def report_outcome(outcome: multirun.SweepOutcome) -> None:
        if outcome.result is None:
            print(f"rl-lab: {outcome.label or 'the training'} failed: {outcome.error}", file=sys.stderr, flush=True)
            return
        if not args.json:
            mean = outcome.result.summary["mean_return"]
            print(f"{outcome.result.run.path}  mean return {mean:.2f}", flush=True)
        show_failures(outcome.result.video_failures)

    workers, overrides = take_workers(overrides)
    train_all = multirun.train_in_sequence(train_one) if workers is None else _train_on_ray(workers)
    outcomes = multirun.train_each(target, sweep_combinations(overrides), train_all, report_outcome)
    _report_all(target, outcomes, args.json)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    return 1 if len(results) < len(outcomes) else exit_status(results, args.require_video)


def _train_on_ray(workers: RayWorkers) -> TrainAll:
    """Return the function that trains on a Ray cluster. Raises UsageError where Ray is not installed."""
    from rl_lab.learners.rllib.requirement import require

    require("workers=ray")  # the module imports Ray
    from rl_lab.experiments.ray_multirun import RayTrainings

    return RayTrainings(workers, _command())


def _report_all(target: str | None, outcomes: Sequence[SweepOutcome], as_json: bool) -> None:
    """Print the table of a sweep and its failures, or all of it as JSON."""
    from rl_lab.experiments import multirun

    rows = multirun.table_rows(target, outcomes)
    failures = [outcome for outcome in outcomes if outcome.result is None]
    if as_json:
        runs = [outcome.result.as_json() | {"swept": outcome.swept} for outcome in outcomes if outcome.result]
        failed = [{"swept": outcome.swept, "error": outcome.error} for outcome in failures]
        print(json.dumps({"runs": runs, "failed": failed, "table": rows}))
        return
    print("\nmean return of each seed's agent, over seeds")
    print(multirun.format_rows(rows))
    for warning in sorted({row["warning"] for row in rows if row["warning"]}):
        print(f"  note: {warning}")
    for outcome in failures:
        print(f"  failed: {outcome.label or 'the training'}: {outcome.error}")


def _split_target(first: str, overrides: list[str]) -> tuple[str | None, list[str]]:
    """Return the scenario and the overrides. The scenario is None where the first word is an override, too.

    A path may contain an equals sign, so a word that names a file is no override.
    """
    key, equals, _ = first.partition("=")
    if not equals or "/" in key or os.path.exists(first.partition(":")[0]):
        return first, overrides
    return None, [first, *overrides]


def _train(
    scenario: Scenario, quiet: bool, report: Callable[[TrainingResult], None] = report_nothing
) -> TrainingResult:
    from rl_lab.core.progress import Progress
    from rl_lab.experiments.trainer import train

    return train(scenario, _command(), Progress(quiet=quiet), report)


def _command() -> list[str]:
    """Return the command line, for run.json."""
    return [shlex.quote(word) for word in sys.argv]


def report_interruption(stop: Any) -> int:
    """Print how to continue after an interrupt, and return the exit status."""
    from rl_lab.experiments.run_dir import shell_quoted

    if stop.run is not None:
        moment = "before its next checkpoint" if stop.is_work_lost else "at a checkpoint"
        print(f"\nstopped {moment}; continue with: rl-lab resume {shell_quoted(stop.run.path)}", file=sys.stderr)
    return int(stop.code)


def report(result: TrainingResult) -> None:
    """Print the result and the paths of a run, before its videos are recorded."""
    from rl_lab.evaluation.evaluate import table
    from rl_lab.evaluation.stats import reaches

    path = result.run.path
    print(table(result.summary))
    print(f"\n  trained {training_time(result)}")
    expected = result.scenario.expect.get(result.scenario.agent)
    if expected is not None:
        reached = "reached" if reaches(result.summary["mean_return"], expected.mean_return) else "NOT reached"
        print(f"  expected {expected.mean_return:g}: {reached}  ({expected.source})")
    print(f"\n  run      {path}\n  agent    {result.run.agent}\n  metrics  {result.run.metrics}", flush=True)


def report_videos(result: TrainingResult, as_json: bool) -> None:
    """Print the paths of the videos, or why they are missing, and the next commands; with JSON, the total result."""
    from rl_lab.experiments.run_dir import shell_quoted

    show_failures(result.video_failures)
    if as_json:
        print(json.dumps(result.as_json()))
        return
    path = result.run.path
    for name, video in result.videos.items():
        print(f"  {name:<7}  {video}")
    quoted = shell_quoted(path)
    print(f"\nnext: rl-lab watch {quoted}\n      rl-lab evaluate {quoted} evaluation.episodes=1000")
    print(f"      tensorboard --logdir {quoted}")


def training_time(result: TrainingResult) -> str:
    """Return the number and the rate of training steps as text; the time of a compilation is shown separately."""
    steps, seconds = result.first_iteration
    total = f"{result.steps:,} steps in {result.seconds:.1f} s"
    if seconds > max(result.seconds / 2, _COMPILING_SECONDS) and result.steps > steps:
        rate = (result.steps - steps) / max(result.seconds - seconds, 1e-9)
        return f"{total}: {seconds:.1f} s for the first {steps:,}, compiling included, then {rate:,.0f} steps/s"
    rate = result.steps / result.seconds if result.seconds else 0.0
    return f"{total} ({rate:,.0f} steps/s)"
