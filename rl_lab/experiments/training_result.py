"""The result of a training: the final evaluation, the time that it took, and the videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario


@dataclass
class Result:
    """The result of a run."""

    run: Run
    scenario: Scenario
    steps: int
    seconds: float  # of training, over all its parts
    summary: dict[str, Any]
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
