"""Train a run until its budget is used: `train` starts one, `resume` continues one from its newest checkpoint.

Both build the learner and its environments, and then repeat one iteration of the learner, between which they write
metrics, evaluate the current agent where a selection is due, and save whole-state checkpoints. In the end they evaluate
the best agent, report the result and record videos. `rl-lab train`, `rl-lab resume` and the workers of sweeps on Ray
call them.

They write the run's folder only (see `run_dir.Run`). While they run, signals are handled by `core.interrupts`, and
torch's number of threads is the scenario's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from rl_lab.core import checkpoint
from rl_lab.core.agent import Learner, StateDict
from rl_lab.core.interrupts import GRACE, Interrupted, Interrupts
from rl_lab.core.progress import Progress
from rl_lab.core.untrusted import checked_type
from rl_lab.engine import compile_notice, user_code
from rl_lab.experiments import loop_state, run_dir, whole_state
from rl_lab.experiments.agent_loading import as_usage_error, load_agent
from rl_lab.experiments.build import TrainingEnvs, evaluate_scenario, make_learner
from rl_lab.experiments.loop_state import LoopState
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.selection import Selection
from rl_lab.experiments.training_metrics import Metrics, check_metrics_file
from rl_lab.experiments.training_result import TrainingResult, budget_rounding
from rl_lab.league.league import League

__all__ = ["Interrupted", "TrainingResult", "load_agent", "make_learner", "evaluate_scenario", "resume", "train"]
MAX_CHECKPOINT_TIME_SHARE = 0.01  # the largest share of wall time that writing checkpoints takes


def train(
    scenario: Scenario,
    command: list[str],
    progress: Progress,
    report: Callable[[TrainingResult], None] = lambda result: None,
) -> TrainingResult:
    """Train from the start. Nothing is written before the learner and its environments could be made.

    `report` is called with the result of the final evaluation, before videos are made.

    Raises:
        UsageError: the scenario cannot be trained, or its run folder exists.
        Interrupted: a signal has ended the training; `run` and `is_work_lost` say what is left of it.
        OSError, and what the environments and the learner raise while they train.
    """
    user_code.refuse_while_loading()
    with compile_notice.written_by(progress.note), Interrupts() as interrupts:
        with interrupts.abort_after(0.0):
            learner, envs = make_learner(scenario)
        with closing(learner), run_dir.new_run(scenario, command) as run:
            _attach_run_dir(learner, run)
            worlds = "world" if scenario.worlds == 1 else "worlds"
            description = f"{scenario.name}: {scenario.agent} in {scenario.worlds} {worlds} of {scenario.world}"
            progress.note(f"{description}, learner: {learner.backend}")
            return _Training(run, scenario, learner, envs, interrupts, progress).run_to_budget(report)


def resume(
    run: Run, progress: Progress, report: Callable[[TrainingResult], None] = lambda result: None
) -> TrainingResult:
    """Continue from the newest valid checkpoint, or from the start without one.

    The result has the bits of an uninterrupted run where `restores_exactly` of the environments is True; the others
    begin new episodes. `report` is as in `train`.

    Raises:
        UsageError: a checkpoint does not fit the scenario, or what `run_dir.locked_run` refuses.
        Interrupted, and others: as `train` does.
    """
    with compile_notice.written_by(progress.note), Interrupts() as interrupts, run_dir.locked_run(run) as scenario:
        try:
            with interrupts.abort_after(0.0):
                training = _restore_training(run, scenario, interrupts, progress)
        except Interrupted as stop:
            stop.run, stop.is_work_lost = run, False
            raise
        with closing(training.learner):
            return training.run_to_budget(report)


def _restore_training(run: Run, scenario: Scenario, interrupts: Interrupts, progress: Progress) -> _Training:
    """Build the learner and its environments, and restore the newest valid checkpoint if there is one."""
    learner, envs = make_learner(scenario)
    _attach_run_dir(learner, run)
    training = _Training(run, scenario, learner, envs, interrupts, progress)
    saved = run_dir.load_latest(run)
    if saved is not None:
        with as_usage_error(saved.path):
            training.restore(saved)
        check_metrics_file(run, training.metrics_size, saved.step)
    else:
        progress.note(f"{run.path} has no checkpoint that can be read: training starts from the beginning")
    return training


def _attach_run_dir(learner: Learner, run: Run) -> None:
    if isinstance(learner, League):
        learner.set_run_dir(run.path)


class _Training:
    """The training loop of one run: `run_to_budget` trains, evaluates and reports.

    Its own state, besides the learner's and the environments', is what `loop_state.LoopState` lists. `restore` sets all
    of it from a checkpoint, and `_state` returns it for one.
    """

    def __init__(
        self,
        run: Run,
        scenario: Scenario,
        learner: Learner,
        envs: TrainingEnvs,
        interrupts: Interrupts,
        progress: Progress,
    ) -> None:
        self.run, self.scenario, self.learner, self.envs = run, scenario, learner, envs
        self.interrupts, self.progress = interrupts, progress
        self.selection = Selection(run, scenario, envs, interrupts)
        self.training_return: float | None = None  # of the last training episodes
        self.seconds = 0.0  # of training before the last resume
        self.first_iteration = (0, 0.0)  # its steps and seconds, if it compiled code
        self.overhead_seconds = 0.0  # of all but iterations: metrics, selections, checkpoints; shown as "log"
        self.metrics_size = 0  # bytes, at the checkpoint that has been restored
        self.saved_step = 0  # steps of the learner in the last checkpoint
        self.has_unsaved_changes = True  # whether the state has changed since the last checkpoint
        self.may_be_aborted = False  # whether the last iteration took longer than one may take after a signal
        self._started_at = time.perf_counter()
        self._next_checkpoint_at = self._started_at + scenario.checkpoint.seconds
        reason = "the process was ended before it wrote a checkpoint"
        interrupts.exit_message = f"{reason}; continue with: rl-lab resume {run_dir.shell_quoted(run.path)}"

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the state that `_state` returned. Raises KeyError or ValueError where it does not fit."""
        loop = loop_state.read(saved, self.run.agent)
        checked_type(saved.state["learner"], "learner", dict)
        if isinstance(self.learner, League):
            self.learner.reload_snapshots(saved.state["learner"])
        self.envs.restore(saved.tensors[whole_state.ENVS])
        self.selection.best_score, self.selection.best_agent = loop.best_score, loop.best_agent
        self.selection.count, self.metrics_size = loop.selections, loop.metrics_size
        self.training_return, self.seconds = loop.training_return, loop.seconds
        self.saved_step, self.has_unsaved_changes = saved.step, False
        # Last, because it sets the global random generators.
        self.learner.restore(StateDict(whole_state.learner_tensors(saved), saved.state["learner"]))
        if self.learner.steps != saved.step:
            raise ValueError(f"it is of step {self.learner.steps}")

    def run_to_budget(self, report: Callable[[TrainingResult], None]) -> TrainingResult:
        """Train until the budget is used, then evaluate the best agent, report the result and record videos."""
        try:
            return self._run_to_budget(report)
        except Interrupted as stop:
            stop.run, stop.is_work_lost = self.run, self.has_unsaved_changes
            raise

    def _run_to_budget(self, report: Callable[[TrainingResult], None]) -> TrainingResult:
        self._started_at = time.perf_counter()
        size = self.run.metrics.stat().st_size if self.run.metrics.exists() else 0
        self.selection.write_best_agent()
        self.metrics = Metrics(self.run, size=min(self.metrics_size, size), step=self.learner.steps)
        self.progress.begin(self.learner.steps, self.scenario.budget)
        if rounding := budget_rounding(self.scenario, self.learner):
            self.progress.note(rounding)
        try:
            if self.learner.steps:
                self._select_if_due()  # the run may have been interrupted while a selection was due
            self.interrupts.check()
            if self.learner.steps < self.scenario.budget:
                self._iterate(first=True)
            while self.learner.steps < self.scenario.budget:
                self._iterate()
            self._save_checkpoint()
        finally:
            self.metrics.close()
        elapsed = self._elapsed()
        self.progress.end()
        with self.interrupts.abort_after(0.0):
            result = self._finish(elapsed, report)
        self.envs.close()
        return result

    def _iterate(self, *, first: bool = False) -> None:
        """Run one iteration of the learner, write its metrics, and select and save a checkpoint if these are due."""
        steps_before = self.learner.steps
        values, train_seconds = self._train_iteration()
        overhead_from = time.perf_counter()
        steps, elapsed = self.learner.steps, self._elapsed()
        self.training_return = values.get("rollout/return", self.training_return)
        values |= {f"log/{name}": value for name, value in self.envs.drain_log().items()}
        rate = self.progress.rate(steps)
        self.metrics.write(steps, values, {"time/seconds": elapsed, "time/steps_per_second": rate})
        if first:  # it may have compiled, so the remaining time is estimated from the later iterations
            if compile_notice.has_compiled:
                self.first_iteration = steps - steps_before, train_seconds
            self.progress.begin(steps, self.scenario.budget)
        try:
            self._select_if_due()
        except Interrupted:
            self._save_checkpoint()
            raise
        seconds_by_part = {**self.learner.seconds, "log": self.overhead_seconds}
        self.progress.show(steps, values.get("rollout/return"), seconds_by_part)
        if self._is_checkpoint_due() or self.interrupts.code:
            self._save_checkpoint()
            self.interrupts.check()
        self.overhead_seconds += time.perf_counter() - overhead_from

    def _train_iteration(self) -> tuple[dict[str, float], float]:
        """Run one iteration of the learner; return its metrics, and how many seconds it took.

        Raises Interrupted for one that goes on for too long after a signal. The state before it is then saved where it
        was copied, and the iteration is repeated after a resume.
        """
        start_time = time.perf_counter()
        copies = self.may_be_aborted and self.has_unsaved_changes
        state = whole_state.copy_of(self._state()) if copies else None
        try:
            with self.interrupts.iteration():
                values = self.learner.train_iteration()
        except Interrupted:
            if state is not None:
                self._write_checkpoint(state)
            raise
        self.has_unsaved_changes = True
        train_seconds = time.perf_counter() - start_time
        self.may_be_aborted = train_seconds > GRACE
        return values, train_seconds

    def _is_checkpoint_due(self) -> bool:
        """Return whether it is time to save, by the steps or the seconds since the last checkpoint."""
        if every := self.scenario.checkpoint.steps:
            return self.learner.steps // every > self.saved_step // every
        return time.perf_counter() >= self._next_checkpoint_at

    def _select_if_due(self) -> None:
        """Evaluate the agent if another 1/selections of the budget is done; keep it if it is the best so far."""
        steps = self.learner.steps
        if not self.selection.is_due(steps):
            return
        result, note = self.selection.measure(self.learner, self.training_return)
        self.has_unsaved_changes = True
        self.metrics.write_events(steps, {"selection/return": result.score, "selection/length": result.length})
        self.progress.note(f"selection at {steps:,} steps: mean return {result.score:.2f}{note}")

    def _save_checkpoint(self) -> None:
        """Write a checkpoint if the state has changed since the last one, and set the time of the next one."""
        start_time = time.perf_counter()
        if self.has_unsaved_changes:
            self._write_checkpoint(self._state())
        cost = time.perf_counter() - start_time
        pause = max(self.scenario.checkpoint.seconds, cost / MAX_CHECKPOINT_TIME_SHARE)
        self._next_checkpoint_at = time.perf_counter() + pause

    def _state(self) -> checkpoint.Checkpoint:
        """Return the whole state; some of its arrays are memory that the next iteration changes."""
        state_dict, selection, best = self.learner.save(), self.selection, self.selection.best_agent
        size, seconds = self.metrics.size, self._elapsed()
        loop = LoopState(selection.best_score, best, selection.count, self.training_return, size, seconds)
        state = {"learner": state_dict.state, **loop.entries()}
        tensors = {**state_dict.tensors, whole_state.ENVS: self.envs.snapshot()}
        if best is not None:
            tensors |= {whole_state.BEST_PREFIX + name: arrays for name, arrays in best.tensors.items()}
        return checkpoint.Checkpoint(self.run.checkpoints, self.learner.steps, tensors, state)

    def _write_checkpoint(self, state: checkpoint.Checkpoint) -> None:
        self.metrics.sync()
        keep = self.scenario.checkpoint.keep_last
        checkpoint.save(state.path, state.step, state.tensors, state.state, keep_last=keep)
        self.saved_step, self.has_unsaved_changes = state.step, False

    def _elapsed(self) -> float:
        """Return the seconds of training so far, over all parts of a run that was resumed."""
        return self.seconds + time.perf_counter() - self._started_at

    def _finish(self, elapsed: float, report: Callable[[TrainingResult], None]) -> TrainingResult:
        """Evaluate the best agent, save the evaluation, report the result and record videos; return the result."""
        agent, step = load_agent(self.run.agent, self.scenario)
        evaluation = evaluate_scenario(agent, self.scenario, self.interrupts.check)
        evaluation.save(self.run.evaluation(step))
        steps, summary = self.learner.steps, evaluation.summary
        result = TrainingResult(self.run, self.scenario, steps, elapsed, summary, self.first_iteration)
        report(result)
        if self.scenario.video:
            from rl_lab.evaluation.episode_videos import film_evaluation

            result.videos, result.video_failures = film_evaluation(
                evaluation, self.run.videos, check_interrupt=self.interrupts.check, note=self.progress.note
            )
        return result
