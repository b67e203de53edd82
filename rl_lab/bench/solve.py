"""How long a scenario trains until its agent is first measured to have solved the world, seed by seed.

At regular points, a fiftieth of the budget apart, training stops and the agent plays the scenario's evaluation: its
episodes, to the end, on evaluation seeds. The clock of training stands still meanwhile; another one runs on. Nothing
that training does is looked at to choose these points, and the score that ends it is the whole evaluation's.
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

from ..assembly import make_learner, measure
from ..batch import make
from ..names import UsageError, one_line
from ..scenario import Scenario
from .rounds import interval, spread

LOOKS = 50  # evaluations within a budget
_MEASURED = re.compile(r"selection at .*: mean return (-?[\d.]+)")  # as a training says it


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


def command(scenario: Scenario, words: list[str], *, seeds: int = 10) -> list[dict[str, Any]]:
    """Return rows of seconds since `rl-lab train WORDS` was typed, over seeds: until solved, and until it exits.

    Solved means that a measurement during training, over as many episodes as the scenario says, reached the score. Each
    is a process of its own with full caches. Raises ChildProcessError where one fails.
    """
    score, solved, over = score_of(scenario), [], []
    _train([*words, f"seed={scenario.seed}"], score)  # this one may have had to compile
    for seed in range(scenario.seed, scenario.seed + seeds):
        reached, left = _train([*words, f"seed={seed}"], score)
        solved.append(reached)
        over.append(left)
    what, episodes = " ".join(["rl-lab train", *words]), scenario.evaluation.selection_episodes
    common = {"what": what, "kind": "command", "seeds": seeds, "solved": sum(map(math.isfinite, solved))}
    process = "fresh process, full cache, from typing"
    return [
        {**common, "conditions": f"{process} to {score:g} in {episodes} episodes", "seconds": interval(solved)},
        {**common, "conditions": f"{process} to exit, all measurements and films made", "seconds": interval(over)},
    ]


def _train(words: list[str], score: float) -> tuple[float, float]:
    """Return seconds from typing until the score is measured, infinity if it never is, and until the end."""
    begin, reached, lines = time.perf_counter(), math.inf, []
    with tempfile.TemporaryDirectory() as folder:
        whole = [sys.executable, "-m", "rl_lab.cli", "train", *words, f"run_dir={Path(folder) / 'run'}"]
        with subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr or ():
                lines.append(line)
                found = _MEASURED.search(line)
                if found and float(found[1]) >= score:
                    reached = min(reached, time.perf_counter() - begin)
        taken = time.perf_counter() - begin
    if process.returncode:
        raise ChildProcessError(one_line((lines or [""])[-1].strip()))
    return reached, taken
