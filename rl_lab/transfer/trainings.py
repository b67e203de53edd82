"""The trainings of a comparison: each is done once, and continued where it was interrupted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.interrupts import Interrupts
from rl_lab.core.progress import Progress
from rl_lab.core.untrusted import checked_number, checked_type, read_json
from rl_lab.evaluation.evaluate import Evaluation
from rl_lab.experiments import run_dir, trainer
from rl_lab.experiments.build import evaluate_scenario, make_learner
from rl_lab.experiments.learning_curve import learning_curve
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.selection import Selection

_MAX_BYTES = 2**16


@dataclass(frozen=True)
class Training:
    """The scores that one training has measured. `start` is the score before it, `final` that of the kept agent."""

    seed: int
    steps: list[int]
    scores: list[float]
    start: float
    final: float


class TrainingProgress(Progress):
    """The progress line of a training, without its notes, because a report has many trainings."""

    def note(self, text: str) -> None:
        """Write nothing."""


def train_or_resume(scenario: Scenario, command: list[str], starts: Path, progress: Progress) -> Training:
    """Return the measurements of a training: of the run that is there, after it was continued if need be, or a new one.

    Raises UsageError for a run with other settings, and what `trainer.train` and `trainer.resume` raise.
    """
    run = Run(Path(str(scenario.run_dir)))
    start = start_score(scenario, starts)
    is_there = (run.path / "config.yaml").exists()
    if is_there:
        run = run_dir.find(str(run.path), unfinished=True)
        require_same_settings(run, scenario)
    if not is_there:
        trainer.train(scenario, command, progress)
    elif run.summary() is None:
        trainer.resume(run, progress)
    curve = learning_curve(run)
    summary = run.summary()
    if not curve or summary is None:
        raise UsageError(f"{run.path} has no learning curve: delete it to train again")
    final = checked_number(summary.get("mean_return"), f"{run.path}: mean_return")
    return Training(scenario.seed, [step for step, _ in curve], [score for _, score in curve], start, final)


def require_same_settings(run: Run, scenario: Scenario) -> None:
    """Raise UsageError where a run is of other settings than this scenario."""
    theirs, ours = (_comparable(each) for each in (run.scenario(), scenario))
    if differing := sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)):
        raise UsageError(f"{run.path} was trained with another {differing[0]}: choose another out=DIR, or delete it")


def _comparable(scenario: Scenario) -> dict[str, Any]:
    """Return the settings that decide what is learned and measured; a backbone counts by its hash, not by its place."""
    config: dict[str, Any] = json.loads(json.dumps(scenario.as_config()))
    for key in ("checkpoint", "threads", "expect", "video"):
        config.pop(key, None)
    if config.get("backbone"):
        config["backbone"].pop("path")
    return config


def evaluate_start(scenario: Scenario) -> Evaluation:
    """Evaluate a scenario's agent before any training, on the episodes of a final evaluation."""
    with Interrupts() as interrupts, interrupts.abort_after(0.0):
        learner, envs = make_learner(scenario)
        with closing(learner):
            evaluation = evaluate_scenario(learner.agent(), scenario, interrupts.check)
        envs.close()
    return evaluation


def cached_score(file: Path, identity: dict[str, Any], measure: Callable[[], float]) -> float:
    """Return the score in a file, or measure it and write it there. A file of another identity is measured again.

    Raises UsageError for a damaged file, and OSError where it cannot be written.
    """
    identity = json.loads(json.dumps(identity))
    if file.exists():
        try:
            record = checked_type(read_json(file, _MAX_BYTES), "it", dict)
            if record.get("of") == identity:
                return checked_number(record.get("score"), "score")
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} is damaged: {one_line(error)[:120]}; delete it to measure again") from None
    score = measure()
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(file, (json.dumps({"score": score, "of": identity}) + "\n").encode())
    return score


def start_score(scenario: Scenario, starts: Path) -> float:
    """Return the score of the agent before the training, as a selection measures it; it is kept in the folder `starts`.

    Raises UsageError where scenario and backbone do not go together.
    """

    def measure() -> float:
        with Interrupts() as interrupts, interrupts.abort_after(0.0):
            learner, envs = make_learner(scenario)
            with closing(learner), tempfile.TemporaryDirectory() as place:
                result, _ = Selection(Run(Path(place)), scenario, envs, interrupts).measure(learner, None)
            envs.close()
        return result.score

    file = starts / f"{Path(str(scenario.run_dir)).name}.json"
    return cached_score(file, _comparable(scenario), measure)


def as_json(training: Training) -> dict[str, Any]:
    """Return a training's measurements as data for JSON."""
    return asdict(training)
