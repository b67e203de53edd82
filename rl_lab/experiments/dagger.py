"""Clone a teacher by dataset aggregation (`rl-lab pretrain dagger`): `aggregate` starts a run, `resume` continues one.

A clone that has seen the teacher's own episodes alone does not know what to do where its mistakes lead. In each round
of DAgger, the learner plays and the teacher says what it would have done in each state; the next learner is cloned
from all decisions so far, from new parameters, by the trainer of `rl-lab pretrain bc`. In the first round the teacher
plays. The last learner is kept.

A checkpoint has all decisions of the rounds so far. It is written before they are learned from, so that a resumed run
trains the learner of its last round again, and ends with the same bits.

Source: Ross, Gordon and Bagnell 2011, "A reduction of imitation learning and structured prediction to no-regret online
learning"
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.adapters import make
from rl_lab.core import checkpoint
from rl_lab.core.agent import Agent
from rl_lab.core.errors import UsageError
from rl_lab.core.interrupts import Interrupted, Interrupts
from rl_lab.core.progress import Progress
from rl_lab.core.protocols import EnvSpec
from rl_lab.datasets.dataset import Dataset
from rl_lab.engine import user_code
from rl_lab.evaluation.demonstrations import DemonstrationPlan, Demonstrations, demonstrate
from rl_lab.experiments import dagger_config, decisions, run_dir
from rl_lab.experiments.agent_loading import as_usage_error, load_agent
from rl_lab.experiments.dagger_config import DaggerRequest, DaggerSettings
from rl_lab.experiments.pretraining import prepare
from rl_lab.experiments.pretraining_run import Pretraining, PretrainResult
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.teachers import load_teacher, scenario_and_teacher
from rl_lab.experiments.training_metrics import Metrics, check_metrics_file


def aggregate(request: DaggerRequest, command: list[str], progress: Progress) -> PretrainResult:
    """Clone a teacher from the start. Nothing is written before the teacher has played its first episodes.

    Raises:
        UsageError: teacher, world and settings do not go together, or the run's folder exists.
        Interrupted: a signal has ended the work; `run` can be resumed.
    """
    user_code.refuse_while_loading()
    settings = request.settings
    lines = ["agent=ppo", f"seed={settings.seed}", f"device={settings.device}", f"threads={settings.threads}"]
    lines += [f"evaluation.episodes={settings.episodes}"]
    lines += [] if settings.run_dir is None else [f"run_dir={settings.run_dir}"]
    with Interrupts() as interrupts:
        with interrupts.abort_after(0.0):
            scenario, teacher = scenario_and_teacher("pretrain dagger", request.teacher, lines)
            scenario = dataclasses.replace(scenario, name=f"dagger-{scenario.name}", expect={}, overrides=())
            aggregation = _Aggregation(scenario, settings, teacher)
            aggregation.gather(None)
            scenario = aggregation.training().scenario
        with run_dir.new_run(scenario, command) as run:
            dagger_config.write(run.path, settings, teacher)
            return aggregation.run(run, progress, interrupts)


def resume(run: Run, progress: Progress) -> PretrainResult:
    """Continue from the newest valid checkpoint, with the same bits. Raises as `aggregate`."""
    settings, teacher = dagger_config.read(run.path)
    with Interrupts() as interrupts, run_dir.locked_run(run) as scenario:
        with interrupts.abort_after(0.0):
            aggregation = _Aggregation(scenario, settings, teacher)
            saved = run_dir.load_latest(run)
            if saved is None:
                aggregation.gather(None)
            else:
                with as_usage_error(saved.path):
                    aggregation.restore(saved)
                check_metrics_file(run, aggregation.metrics_size, saved.step)
        return aggregation.run(run, progress, interrupts)


class _Aggregation:
    """The rounds of DAgger. Raises UsageError where teacher, world and settings do not go together."""

    def __init__(self, scenario: Scenario, settings: DaggerSettings, teacher: dict[str, Any]) -> None:
        self.scenario, self.settings = scenario, settings
        self.rounds: list[Demonstrations] = []  # the decisions of each round
        self.agreement = 1.0  # of the learner with the teacher, in the newest round's states
        self.metrics_size, self.seconds = 0, 0.0
        self._is_saved = False  # whether nothing has been done since the last checkpoint
        try:
            envs = make.make(scenario.world, 1, scenario.params)
            self.world: EnvSpec = envs.world
            envs.close()
            self.teacher = load_teacher("pretraining.json", teacher, self.world)
        except UsageError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"teacher: {error}") from None

    def gather(self, learner: Agent | None) -> None:
        """Let the learner play a round, or the teacher where there is no learner yet, and add the teacher's decisions.

        Raises UsageError where the teacher cannot play this world.
        """
        settings, index = self.settings, len(self.rounds)
        size = (settings.rollout_episodes, settings.rollout_steps)
        plan = DemonstrationPlan(
            self.scenario.world,
            self.scenario.params,
            *size,
            self.scenario.seed,
            teacher_share=settings.teacher_share**index,
            sample=settings.sample,
        )
        try:
            self.rounds.append(demonstrate(plan, self.teacher, learner, index))
        except ValueError as error:
            raise UsageError(f"teacher: {error}") from None

    def data(self) -> Dataset:
        """Return all decisions so far."""
        return decisions.as_dataset(self.rounds, self.world, self.scenario.world, Path("the decisions of the teacher"))

    def training(self) -> Pretraining:
        """Return the pretraining on all decisions so far, at its start."""
        training = prepare("bc", self.settings, self.data(), self.scenario)
        training.method = "dagger"
        return training

    def run(self, run: Run, progress: Progress, interrupts: Interrupts) -> PretrainResult:
        """Train and gather until the last round, then evaluate the last learner."""
        try:
            return self._run(run, progress, interrupts)
        except Interrupted as stop:
            stop.run, stop.is_work_lost = run, not self._is_saved
            raise

    def _run(self, run: Run, progress: Progress, interrupts: Interrupts) -> PretrainResult:
        size = run.metrics.stat().st_size if run.metrics.exists() else 0
        metrics = Metrics(run, size=min(self.metrics_size, size), step=self._labels())
        begin = time.perf_counter() - self.seconds
        progress.begin(len(self.rounds) - 1, self.settings.rounds)
        try:
            while True:
                training = self._train(interrupts)
                training.write(run)
                training.seconds = self.seconds = time.perf_counter() - begin
                self._report(training, metrics, progress)
                if len(self.rounds) >= self.settings.rounds:
                    break
                learner, _ = load_agent(run.agent, run.scenario())
                with interrupts.abort_after(0.0):
                    self.gather(learner)
                    self.agreement = self._agreement(learner, self.rounds[-1])
                metrics.sync()
                self._save(run, metrics.size)
                self._is_saved = True
                interrupts.check()
                self._is_saved = False
        finally:
            metrics.close()
        progress.end()
        return training.finish(run, interrupts)

    def _train(self, interrupts: Interrupts) -> Pretraining:
        training = self.training()
        while not training.trainer.is_done:
            training.trainer.train_epoch(lambda _: interrupts.check())
        return training

    def _report(self, training: Pretraining, metrics: Metrics, progress: Progress) -> None:
        trainer = training.trainer
        values: dict[str, float] = {"round": len(self.rounds), "labels": self._labels(), "epochs": trainer.epoch}
        values["agreement"] = self.agreement
        values |= {f"{trainer.score_split}/{name}": value for name, value in trainer.best_scores.items()}
        metrics.write(self._labels(), values, {"time/seconds": self.seconds})
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "round")
        progress.note(f"round {len(self.rounds)}: {text}")
        progress.show(len(self.rounds), None, {})

    def _labels(self) -> int:
        return sum(len(each.actions) for each in self.rounds)

    def _agreement(self, learner: Agent, played: Demonstrations) -> float:
        """Return in which share of a round's states the learner's best action is the teacher's.

        Of continuous actions it is the negative mean squared difference.
        """
        mask = played.action_mask if played.action_mask.shape[1] else None
        actions, _ = learner.act(played.observations, action_mask=mask)
        if isinstance(self.world.action, Discrete):
            return float((actions == played.actions).mean())
        return -float(np.square(actions - played.actions).mean())

    def _save(self, run: Run, metrics_size: int) -> None:
        state = {"metrics_size": metrics_size, "clock": self.seconds, "agreement": self.agreement}
        tensors = {"decisions": decisions.as_arrays(self.rounds)}
        checkpoint.save(run.checkpoints, self._labels(), tensors, state, keep_last=1)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the state of a checkpoint. Raises KeyError or ValueError where it does not fit."""
        self.rounds = decisions.from_arrays(saved.tensors["decisions"], self.world)
        self.metrics_size, self.seconds = int(saved.state["metrics_size"]), float(saved.state["clock"])
        self.agreement = float(saved.state["agreement"])
