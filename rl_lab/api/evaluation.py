"""Evaluate an agent from Python: `evaluate` returns the figures, the returns and the episodes as plain objects."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.api.settings import override_lines
from rl_lab.api.video import Video, video_name
from rl_lab.core.errors import UsageError
from rl_lab.core.world import Array
from rl_lab.engine import user_code
from rl_lab.evaluation.episode_videos import film_evaluation
from rl_lab.evaluation.episodes import Episode
from rl_lab.evaluation.evaluate import Evaluation, table
from rl_lab.experiments.agent_targets import find_agent
from rl_lab.experiments.build import evaluate_scenario


@dataclass(frozen=True)
class EvaluationResult:
    """The episodes of one agent in one world, and their figures. Printing it prints the table of `rl-lab evaluate`."""

    evaluation: Evaluation

    @property
    def summary(self) -> dict[str, Any]:
        """The figures by name, as in summary.json: "mean_return", "iqm_return", "ci95", "mean_length" and others."""
        return self.evaluation.summary

    @property
    def mean_return(self) -> float:
        """The mean return of the episodes."""
        return float(self.summary["mean_return"])

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """The episodes, with seed, return, length and actions, in the order of their seeds."""
        return self.evaluation.episodes

    @property
    def returns(self) -> Array:
        """The returns of the episodes, float64 [E]."""
        return np.array([episode.return_ for episode in self.episodes])

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary for each episode, without its actions; `pandas.DataFrame(result.rows())` is a table."""
        return [episode.as_json() for episode in self.episodes]

    def film(self, which: str = "best", folder: str | Path | None = None) -> Video:
        """Record the "best", "median" and "worst" episode, and return the video of one of them.

        The files are written into `folder`, by default a new temporary one. Raises UsageError for another name, and
        where the video cannot be made.
        """
        name = video_name(which)
        target = Path(tempfile.mkdtemp(prefix="rl-lab-videos-")) if folder is None else Path(folder)
        videos = film_evaluation(self.evaluation, target)
        if name not in videos.paths:
            raise UsageError(f"no video of the {name} episode: {videos.failures[name]}")
        return Video(videos.paths[name])

    def __repr__(self) -> str:
        return table(self.summary)


def evaluate(target: Any, *, episodes: int | None = None, **settings: Any) -> EvaluationResult:
    """Evaluate an agent in complete episodes, whose seeds training does not use; nothing is written.

    Args:
        target: a `TrainedRun`, a run's folder or name, RUN@STEP, or with `world=` an agent that needs no training,
            such as "scripted", "random" or "mcts".
        episodes: E, the number of episodes, by default that of the scenario; `evaluation={"episodes": E}` is the same.
        settings: the keys of `rl-lab evaluate`: `world="connect_four"`, `opponent="random"`,
            `world={"params": {"gravity": 5}}`, `evaluation={"actions": "sampled"}`.

    Raises:
        UsageError: the target or a setting is wrong.
    """
    user_code.refuse_while_loading()
    name = str(getattr(target, "path", target))
    lines = override_lines(settings)
    if episodes is not None:
        if any(line.startswith("evaluation.episodes=") for line in lines):
            raise UsageError("episodes= and evaluation.episodes are the same setting: give one of them")
        lines += override_lines({"evaluation": {"episodes": episodes}})
    agent, scenario, _, _ = find_agent(name, lines)
    return EvaluationResult(evaluate_scenario(agent, scenario))
