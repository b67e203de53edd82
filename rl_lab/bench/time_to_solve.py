"""Measure how long a scenario trains until it is solved (`rl-lab bench solve`), over several training seeds.

`solve` trains in this process. After every fiftieth of the budget, it runs the scenario's whole evaluation, until the
mean return reaches the score that solves the world. The evaluations come at fixed steps, and their time is measured
apart from that of training. `time_command` runs the whole command `rl-lab train` in new processes instead, and reads
its output. Its runs are written into temporary folders, which are deleted.
"""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.adapters.make import make
from rl_lab.bench.timing import interval, spread
from rl_lab.core.errors import UsageError, one_line
from rl_lab.experiments.build import evaluate_scenario, make_learner
from rl_lab.experiments.scenario import Scenario

EVALUATIONS_PER_BUDGET = 50
_SELECTION_LINE = re.compile(r"selection at .*: mean return (-?[\d.]+)")  # in the output of `rl-lab train`


@dataclass(frozen=True)
class SeedOutcome:
    """The training of one seed until the score or the end of the budget was reached."""

    seed: int
    solved: bool
    steps: int  # environment steps
    training_seconds: float  # without evaluations
    seconds: float  # with evaluations
    score: float  # of the last evaluation


def score_of(scenario: Scenario) -> float:
    """Return the mean return that solves the world: its `reward_threshold`, else the scenario's expected return.

    Raises UsageError where neither is set.
    """
    envs = make(scenario.world, 1, scenario.params)
    threshold = envs.world.reward_threshold
    envs.close()
    expected = scenario.expect.get(scenario.agent)
    if threshold is None and expected is None:
        raise UsageError(f"{scenario.name}: neither the world says when it is solved, nor the scenario what to expect")
    return float(threshold if threshold is not None else expected.mean_return)  # type: ignore[union-attr]


def solve(
    scenario: Scenario, *, seeds: int = 10, on_seed: Callable[[SeedOutcome], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Return a row for each seed, beginning with the scenario's, and one for all; call `on_seed` after each seed."""
    score = score_of(scenario)
    _warm_up(scenario)
    outcomes = []
    for seed in range(scenario.seed, scenario.seed + seeds):
        outcomes.append(_solve(dataclasses.replace(scenario, seed=seed), score))
        on_seed(outcomes[-1])
    rule = f"{scenario.evaluation.episodes} episodes, every {_interval_steps(scenario):,} steps"
    common = {"kind": "solve", "conditions": f"mean return of {score:g} in {rule}; budget {scenario.budget:,}"}
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        what = f"{scenario.name} {scenario.agent} seed {outcome.seed}"
        rows.append(
            {"what": what, **common, **dataclasses.asdict(outcome), "steps_per_second": spread([_rate(outcome)])}
        )
    times = {
        name: interval([getattr(o, name) if o.solved else math.inf for o in outcomes])
        for name in ("steps", "training_seconds", "seconds")
    }
    rates = spread([_rate(outcome) for outcome in outcomes])
    solved = sum(outcome.solved for outcome in outcomes)
    total = {"seeds": seeds, "solved": solved, "steps_per_second": rates, **times}
    return [*rows, {"what": f"{scenario.name} {scenario.agent}", **common, **total}]


def _rate(outcome: SeedOutcome) -> float:
    return outcome.steps / outcome.training_seconds


def _interval_steps(scenario: Scenario) -> int:
    """Return the number of environment steps between two evaluations."""
    return max(scenario.budget // EVALUATIONS_PER_BUDGET, 1)


def _warm_up(scenario: Scenario) -> None:
    """Load or compile all code once, because this benchmark does not measure the time for that."""
    learner, envs = make_learner(scenario)
    learner.train_iteration()
    evaluate_scenario(
        learner.agent(), dataclasses.replace(scenario, evaluation=dataclasses.replace(scenario.evaluation, episodes=2))
    )
    envs.close()


def _solve(scenario: Scenario, score: float) -> SeedOutcome:
    """Train with one seed until the score or the end of the budget is reached."""
    greedy = dataclasses.replace(scenario, evaluation=dataclasses.replace(scenario.evaluation, actions="greedy"))
    learner, envs = make_learner(scenario)
    interval_steps, evaluations, training = _interval_steps(scenario), 0, 0.0
    begin = time.perf_counter()
    while True:
        iteration_begin = time.perf_counter()
        learner.train_iteration()
        training += time.perf_counter() - iteration_begin
        is_last = learner.steps >= scenario.budget
        if learner.steps // interval_steps == evaluations and not is_last:
            continue
        evaluations = learner.steps // interval_steps
        mean = float(evaluate_scenario(learner.agent(), greedy).summary["mean_return"])
        if mean >= score or is_last:
            break
    seconds = time.perf_counter() - begin
    envs.close()
    return SeedOutcome(scenario.seed, mean >= score, learner.steps, training, seconds, mean)


def time_command(scenario: Scenario, words: list[str], *, seeds: int = 10) -> list[dict[str, Any]]:
    """Return rows of the seconds of `rl-lab train WORDS` over seeds: until the world is solved, and until it exits.

    The world is solved when a selection during training reaches the score. Each seed is trained in a new process with
    full caches. Raises ChildProcessError where one fails.
    """
    score, solved, exited = score_of(scenario), [], []
    _train([*words, f"seed={scenario.seed}"], score)  # not measured, because it may compile code
    for seed in range(scenario.seed, scenario.seed + seeds):
        solved_seconds, exit_seconds = _train([*words, f"seed={seed}"], score)
        solved.append(solved_seconds)
        exited.append(exit_seconds)
    what, episodes = " ".join(["rl-lab train", *words]), scenario.evaluation.selection_episodes
    common = {"what": what, "kind": "command", "seeds": seeds, "solved": sum(map(math.isfinite, solved))}
    process = "fresh process, full cache, from typing"
    return [
        {**common, "conditions": f"{process} to {score:g} in {episodes} episodes", "seconds": interval(solved)},
        {**common, "conditions": f"{process} to exit, all evaluations and videos made", "seconds": interval(exited)},
    ]


def _train(words: list[str], score: float) -> tuple[float, float]:
    """Return the seconds until a selection reaches the score, infinity if none does, and until the process exits."""
    begin, solved_seconds, lines = time.perf_counter(), math.inf, []
    with tempfile.TemporaryDirectory() as folder:
        command_line = [sys.executable, "-m", "rl_lab.cli", "train", *words, f"run_dir={Path(folder) / 'run'}"]
        with subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr or ():
                lines.append(line)
                match = _SELECTION_LINE.search(line)
                if match and float(match[1]) >= score:
                    solved_seconds = min(solved_seconds, time.perf_counter() - begin)
        seconds = time.perf_counter() - begin
    if process.returncode:
        raise ChildProcessError(one_line((lines or [""])[-1].strip()))
    return solved_seconds, seconds
