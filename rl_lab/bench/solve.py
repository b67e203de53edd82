"""How long a scenario trains until its agent is first measured to have solved the world, seed by seed.

At regular points, a fiftieth of the budget apart, training stops and the agent plays the scenario's evaluation: its
episodes, to the end, on evaluation seeds. The clock of training stands still meanwhile; another one runs on. Nothing
that training does is looked at to choose these points, and the score that ends it is the whole evaluation's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..assembly import make_learner, measure
from ..batch import make
from ..names import UsageError, one_line
from ..scenario import Scenario
from .rounds import interval, spread

LOOKS = 50  # evaluations within a budget


@dataclass(frozen=True)
class Solved:
    """One seed's way: until its score was reached or, if it never was, until the budget was spent."""

    seed: int
    solved: bool
    steps: int
    training_seconds: float  # collecting and learning
    seconds: float  # evaluations included
    score: float  # of the last evaluation


def score_of(scenario: Scenario) -> float:
    """Return the mean return that counts as solved: the world's, else the scenario's; UsageError if neither."""
    worlds = make(scenario.world, 1, scenario.params)
    solved = worlds.world.solved
    worlds.close()
    expected = scenario.expect.get(scenario.agent)
    if solved is None and expected is None:
        raise UsageError(f"{scenario.name}: neither the world says when it is solved, nor the scenario what to expect")
    return float(solved if solved is not None else expected.mean_return)  # type: ignore[union-attr]


def solve(
    scenario: Scenario, *, seeds: int = 10, tell: Callable[[Solved], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Return a row a seed from the scenario's own on, and one of them all; `tell` hears of each as it comes."""
    score = score_of(scenario)
    _settle(scenario)
    outcomes = []
    for seed in range(scenario.seed, scenario.seed + seeds):
        outcomes.append(_solve(dataclasses.replace(scenario, seed=seed), score))
        tell(outcomes[-1])
    rule = f"{scenario.evaluation.episodes} episodes, every {_apart(scenario):,} steps"
    common = {"kind": "solve", "conditions": f"mean return of {score:g} in {rule}; budget {scenario.budget:,}"}
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        what = f"{scenario.name} {scenario.agent} seed {outcome.seed}"
        rows.append(
            {"what": what, **common, **dataclasses.asdict(outcome), "steps_per_second": spread([_rate(outcome)])}
        )
    reached = {
        name: interval([getattr(o, name) if o.solved else math.inf for o in outcomes])
        for name in ("steps", "training_seconds", "seconds")
    }
    rates = spread([_rate(outcome) for outcome in outcomes])
    solved = sum(outcome.solved for outcome in outcomes)
    whole = {"seeds": seeds, "solved": solved, "steps_per_second": rates, **reached}
    return [*rows, {"what": f"{scenario.name} {scenario.agent}", **common, **whole}]


def _rate(outcome: Solved) -> float:
    return outcome.steps / outcome.training_seconds


def _apart(scenario: Scenario) -> int:
    return max(scenario.budget // LOOKS, 1)


def _settle(scenario: Scenario) -> None:
    """Load or compile all there is to it, once: `--starts` and `--command` are about that."""
    learner, worlds = make_learner(scenario)
    learner.advance()
    measure(
        learner.agent(), dataclasses.replace(scenario, evaluation=dataclasses.replace(scenario.evaluation, episodes=2))
    )
    worlds.close()


def _solve(scenario: Scenario, score: float) -> Solved:
    learner, worlds = make_learner(scenario)
    apart, looked, training = _apart(scenario), 0, 0.0
    begin = time.perf_counter()
    while True:
        started = time.perf_counter()
        learner.advance()
        training += time.perf_counter() - started
        over = learner.steps >= scenario.budget
        if learner.steps // apart == looked and not over:
            continue
        looked = learner.steps // apart
        mean = float(measure(learner.agent(), scenario).summary["mean_return"])
        if mean >= score or over:
            break
    seconds = time.perf_counter() - begin
    worlds.close()
    return Solved(scenario.seed, mean >= score, learner.steps, training, seconds, mean)


def command(target: str, overrides: list[str], *, rounds: int = 5) -> list[dict[str, Any]]:
    """Return a row: seconds of the whole `rl-lab train` of a scenario, from typing to exit, films and all, caches full.

    Raises ChildProcessError where it fails.
    """
    seconds, scores = [], []
    for k in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            place = f"run_dir={Path(folder) / 'run'}"
            words = [sys.executable, "-m", "rl_lab.cli", "train", target, *overrides, place, "--json"]
            begin = time.perf_counter()
            done = subprocess.run(words, capture_output=True, text=True)
            taken = time.perf_counter() - begin
        if done.returncode:
            raise ChildProcessError(one_line(done.stderr.strip().rpartition("\n")[2]))
        if k:  # the first one may have had to compile
            seconds.append(taken)
            scores.append(json.loads(done.stdout.splitlines()[-1])["mean_return"])
    what = " ".join(["rl-lab train", target, *overrides])
    conditions = "fresh process, full cache, films included, from typing to exit"
    row = {"what": what, "kind": "command", "conditions": conditions, "seconds": spread(seconds)}
    return [{**row, "mean_return": spread(scores)}]
