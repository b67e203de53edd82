"""The result of a training, which `trainer.train` and `resume` return, and its form for `--json`.

`budget_rounding` makes the line that says how far whole rollouts exceed the budget. Nothing is written here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_lab.core.agent import Learner
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario

# A training ends with a whole rollout. Users expect a few steps more than the budget; from this factor on, they are
# told.
_REPORTED_EXCESS = 1.05


def budget_rounding(scenario: Scenario, learner: Learner) -> str:
    """Return a line that says how many steps are trained where whole rollouts exceed the budget by much, else ""."""
    rollout, steps, budget = learner.rollout, learner.steps, scenario.budget
    total = steps + -(-(budget - steps) // rollout.steps) * rollout.steps if steps < budget else budget
    if total <= _REPORTED_EXCESS * budget:
        return ""
    setting = f"agent.{rollout.setting}={getattr(scenario.config, rollout.setting)}"
    worlds = f"in {scenario.worlds} world{'s' * (scenario.worlds != 1)}"
    per_learner = f" for each of {rollout.learners} learners" * (rollout.learners > 1)
    why = f"a rollout of {rollout.steps:,} steps ({setting} {worlds}{per_learner}) is not cut"
    return f"budget={budget:,}: {total:,} steps are trained, because {why}"


@dataclass
class TrainingResult:
    """The result of a run."""

    run: Run
    scenario: Scenario
    steps: int
    seconds: float  # of training, over all parts of a run that was resumed
    summary: dict[str, Any]  # of the final evaluation, see `stats.summary`
    first_iteration: tuple[int, float] = (0, 0.0)  # steps and seconds since the start or resume; it may have compiled
    videos: dict[str, Path] = field(default_factory=dict)
    video_failures: dict[str, str] = field(default_factory=dict)  # reasons why videos could not be made, by name

    def as_json(self) -> dict[str, Any]:
        """Return what `train --json` prints."""
        rate = self.steps / self.seconds if self.seconds else 0.0
        return {
            "run_dir": str(self.run.path),
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(rate, 1),
            "videos": {name: str(path) for name, path in self.videos.items()},
            **({"video_failures": self.video_failures} if self.video_failures else {}),
            **self.summary,
        }
