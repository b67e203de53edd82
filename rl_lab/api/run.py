"""Train a run and load one: `train` and `load` return a `TrainedRun`, which evaluates, shows and resumes.

`train` writes a run's folder, as `rl-lab train` does. A signal stops it at a checkpoint: Ctrl-C raises
KeyboardInterrupt, whose message says how to continue.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from rl_lab.api.agent import ActingAgent
from rl_lab.api.evaluation import EvaluationResult, evaluate
from rl_lab.api.settings import override_lines
from rl_lab.api.video import Video, video_name
from rl_lab.core.interrupts import Interrupted
from rl_lab.core.progress import Progress
from rl_lab.engine import user_code
from rl_lab.engine.user_modules import name_of_object
from rl_lab.experiments import run_dir, trainer
from rl_lab.experiments.compose import compose
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_result import TrainingResult


class TrainedRun:
    """A run's folder, with its agent, its metrics and its evaluations. `train` and `load` make it.

    Attributes:
        path: the folder.
    """

    def __init__(self, run: Run) -> None:
        self._run = Run(run.path.resolve())  # the current folder may be another one later
        self.path = self._run.path

    @property
    def scenario(self) -> Scenario:
        """The scenario that was trained."""
        return self._run.scenario()

    @property
    def summary(self) -> dict[str, Any] | None:
        """The figures of the newest evaluation, as in summary.json; None before the first."""
        return self._run.summary()

    @cached_property
    def agent(self) -> ActingAgent:
        """The run's best agent."""
        return ActingAgent(str(self.path))

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, oldest first: `step`, and values by tag, such as "rollout/return".

        `pandas.DataFrame(run.metrics())` makes a table of them.
        """
        if not self._run.metrics.exists():
            return []
        *lines, _ = self._run.metrics.read_text().split("\n")  # a training may be writing the last one
        return [json.loads(line) for line in lines]

    def evaluate(self, episodes: int | None = None, **settings: Any) -> EvaluationResult:
        """Evaluate the best agent, see `rl_lab.evaluate`; nothing is written."""
        return evaluate(str(self.path), episodes=episodes, **settings)

    def film(self, which: str = "best") -> Video:
        """Return the video of the "best", "median" or "worst" evaluated episode; it shows itself in a notebook.

        A run that was trained without videos is evaluated again, and the three videos are written into its folder.
        Raises UsageError for another name, and where the video cannot be made.
        """
        path = self._run.videos / f"{video_name(which)}.mp4"
        return Video(path) if path.exists() else self.evaluate().film(which, self._run.videos)

    def resume(self, *, progress: bool = True) -> TrainedRun:
        """Continue the training from its newest checkpoint to the end of its budget, and return this run.

        Raises as `train`.
        """
        _stop_as_in_python(lambda: trainer.resume(self._run, Progress(quiet=not progress)))
        self.__dict__.pop("agent", None)  # the best agent may be another one now
        return self

    def __repr__(self) -> str:
        summary = self.summary
        score = "not evaluated yet" if summary is None else f"mean return {summary['mean_return']:.2f}"
        return f"TrainedRun({str(self.path)!r}: {score})"


def train(target: Any, *, progress: bool = True, **settings: Any) -> TrainedRun:
    """Train an agent in a scenario, as `rl-lab train` does, and return the run.

    Args:
        target: a scenario's name, a YAML file's path, a world's name, `gym:ID`, `pettingzoo:ID` or FILE.py:NAME; or a
            class or function of a file of yours that makes an environment, or a world that it defines.
        progress: whether to show the progress on stderr.
        settings: the keys of `rl-lab train`, sections as dictionaries: `seed=0`, `budget=50_000`, `agent="dqn"`,
            `agent={"name": "dqn", "learning_rate": 1e-3}`, `evaluation={"episodes": 200}`, `video=False`.

    Raises:
        UsageError: a setting is wrong, or the folder exists.
        KeyboardInterrupt: Ctrl-C; the run can be resumed. It is raised in the main thread only.
        SystemExit: SIGTERM or SIGHUP; the run can be resumed.
        WorkFailed, and what the environment raises.
    """
    user_code.refuse_while_loading()
    name = str(target) if isinstance(target, str | Path) else name_of_object(target)
    lines = override_lines(settings)
    command = [shlex.quote(word) for word in ("rl-lab", "train", name, *lines)]
    scenario = compose(name, lines)
    return TrainedRun(_stop_as_in_python(lambda: trainer.train(scenario, command, Progress(quiet=not progress))).run)


def load(path: str | Path) -> TrainedRun:
    """Return the run of this folder, or the only one in runs/ whose name begins with `path`.

    Raises UsageError where there is none.
    """
    return TrainedRun(run_dir.find(str(path)))


def _stop_as_in_python(function: Callable[[], TrainingResult]) -> TrainingResult:
    """Call a training, and raise KeyboardInterrupt or SystemExit in place of Interrupted."""
    try:
        return function()
    except Interrupted as stop:
        when = " before its next checkpoint" if stop.is_work_lost else " at a checkpoint"
        how = "" if stop.run is None else f"{when}; continue with rl_lab.load({str(stop.run.path)!r}).resume()"
        if stop.code != 130:
            raise SystemExit(stop.code) from None
        raise KeyboardInterrupt(f"the training was stopped{how}") from None
