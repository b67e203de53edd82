"""Training: drives a learner to its budget, keeps the best agent, and leaves a run that can always be resumed."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import checkpoint
from . import run as runs
from .agent import Agent, Learner, Saved
from .assembly import Ground, judges_of, make_learner, measure
from .evaluate import SELECTION_SEED, evaluate, ranked, replace_file
from .interrupts import Interrupted, Interrupts
from .league.league import League
from .progress import Progress
from .run import Run
from .scenario import Scenario
from .trained import fitting, load_agent

__all__ = ["Interrupted", "Result", "load_agent", "make_learner", "measure", "resume", "train"]
_KEPT = "kept-"  # before the kept agent's members in a whole-state checkpoint
COST_SHARE = 0.01  # of wall time that checkpoints may take at most


@dataclass
class Result:
    """What a run came to."""

    run: Run
    scenario: Scenario
    steps: int
    seconds: float  # of training, over all its parts
    summary: dict[str, Any]
    first: tuple[int, float] = (0, 0.0)  # steps and seconds of this part's first iteration, which may compile
    videos: dict[str, Path] = field(default_factory=dict)

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
            **self.summary,
        }


def train(scenario: Scenario, command: list[str], progress: Progress) -> Result:
    """Train from the start. Nothing is written before the scenario has proven sound."""
    with Interrupts() as interrupts:
        learner, worlds = make_learner(scenario)
        run = runs.create(scenario, command)
        _settle(learner, run)
        what = f"{scenario.name}: {scenario.agent} in {scenario.worlds} worlds of {scenario.world}"
        progress.note(f"{what}, learner: {learner.how}")
        return _Training(run, scenario, learner, worlds, interrupts, progress).go()


def resume(run: Run, progress: Progress) -> Result:
    """Go on from the newest valid checkpoint, or from the start without one; the end is bit for bit the same."""
    with Interrupts() as interrupts:
        scenario = run.scenario()
        learner, worlds = make_learner(scenario)
        _settle(learner, run)
        training = _Training(run, scenario, learner, worlds, interrupts, progress)
        found = runs.load_latest(run)
        if found is not None:
            with fitting(found.path):
                training.restore(found)
        return training.go()


def _settle(learner: Learner, run: Run) -> None:
    if isinstance(learner, League):
        learner.settle(run.path)


class _Training:
    """One run at work. Its own state, beside the learner's and the worlds', is `best`, `selections` and the metrics."""

    def __init__(
        self,
        run: Run,
        scenario: Scenario,
        learner: Learner,
        worlds: Ground,
        interrupts: Interrupts,
        progress: Progress,
    ) -> None:
        self.run, self.scenario, self.learner, self.worlds = run, scenario, learner, worlds
        self.interrupts, self.progress = interrupts, progress
        world = worlds.world
        self.judges: list[Agent | None] = [*judges_of(scenario, getattr(worlds, "batch", worlds).world)]
        # One's gain is another's loss: a mean over all says nothing of how good they are, and the newest are kept.
        several = scenario.league is not None or (bool(scenario.policies) and len(world.roles) > 1)
        self.opposed = not self.judges and (bool(getattr(world, "zero_sum", False)) or several)
        self.best = -math.inf
        self.selections = 0
        self.seconds = 0.0  # of the parts before this one
        self.first = (0, 0.0)
        self.log_seconds = 0.0
        self.metrics_size = 0
        self.saved_at = 0
        self.unsaved = True  # whether anything happened since the last checkpoint
        self.kept: checkpoint.Checkpoint | None = None
        self._begin = time.perf_counter()
        self._due = self._begin + scenario.checkpoint.seconds

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Take up a checkpoint's state."""
        state = found.state["training"]
        counts = [state["selections"], state["metrics_size"], *([state["kept"]["step"]] if state["kept"] else [])]
        if not all(type(n) is int and 0 <= n < 2**62 for n in counts):
            raise ValueError("its counters are no counters")
        if not all(type(n) in (int, float) for n in (found.state["clock"], state["best"] or 0.0)):
            raise ValueError("its clock or its best return is no number")
        if state["kept"] and not isinstance(state["kept"]["state"], dict):
            raise ValueError("its kept agent has no state")
        if isinstance(self.learner, League):
            self.learner.recall(found.state["learner"])
        self.worlds.restore(found.tensors["world"])
        self.best = -math.inf if state["best"] is None else state["best"]
        self.selections, self.metrics_size = state["selections"], state["metrics_size"]
        self.seconds = found.state["clock"]
        kept = {n.removeprefix(_KEPT): arrays for n, arrays in found.tensors.items() if n.startswith(_KEPT)}
        if state["kept"]:
            self.kept = checkpoint.Checkpoint(self.run.agent, state["kept"]["step"], kept, state["kept"]["state"])
        tensors = {n: arrays for n, arrays in found.tensors.items() if n != "world" and not n.startswith(_KEPT)}
        self.saved_at, self.unsaved = found.step, False
        # Last, because it sets the global random generators.
        self.learner.restore(Saved(tensors, found.state["learner"]))
        if self.learner.steps != found.step:
            raise ValueError(f"it is of step {self.learner.steps}")

    def go(self) -> Result:
        """Train to the budget, then evaluate and film the agent that was kept."""
        try:
            return self._go()
        except Interrupted as stop:
            stop.run = self.run
            raise

    def _go(self) -> Result:
        self._begin = time.perf_counter()
        size = self.run.metrics.stat().st_size if self.run.metrics.exists() else 0
        self._keep_agent()
        self.metrics = runs.Metrics(self.run, size=min(self.metrics_size, size), step=self.learner.steps)
        self.progress.begin(self.learner.steps, self.scenario.budget)
        try:
            if self.learner.steps:
                self._select()  # the run may have been stopped in the middle of it
            self.interrupts.check()
            if self.learner.steps < self.scenario.budget:
                with self.progress.waiting("a first start compiles, for half a minute or so; later ones need not"):
                    self._iterate(first=True)
            while self.learner.steps < self.scenario.budget:
                self._iterate()
            self._save()
        finally:
            self.metrics.close()
        elapsed = self._elapsed()
        self.progress.end()
        result = self._finish(elapsed)
        self.worlds.close()
        return result

    def _iterate(self, *, first: bool = False) -> None:
        before, start = self.learner.steps, time.perf_counter()
        with self.interrupts.iteration():
            values = self.learner.advance()
        self.unsaved = True
        begin = time.perf_counter()
        steps, elapsed = self.learner.steps, self._elapsed()
        values |= {f"log/{name}": value for name, value in self.worlds.drain_log().items()}
        rate = self.progress.rate(steps)
        self.metrics.write(steps, values, {"time/seconds": elapsed, "time/steps_per_second": rate})
        if first:  # it may have compiled: what is left takes as long as what comes now
            self.first = self.learner.steps - before, begin - start
            self.progress.begin(steps, self.scenario.budget)
        try:
            self._select()
        except Interrupted:
            self._save()
            raise
        spent = {**self.learner.seconds, "log": self.log_seconds}
        self.progress.show(steps, values.get("rollout/return"), spent)
        every = self.scenario.checkpoint.steps
        due = steps // every > self.saved_at // every if every else time.perf_counter() >= self._due
        if due or self.interrupts.code:
            self._save()
            self.interrupts.check()
        self.log_seconds += time.perf_counter() - begin

    def _select(self) -> None:
        """Measure the agent at every `selections`-th of the budget, and keep it if it is no worse than the best."""
        config, budget = self.scenario.evaluation, self.scenario.budget
        steps = min(self.learner.steps, budget)
        passed = steps * config.selections // budget
        if passed <= self.selections and not (steps == budget and self.best == -math.inf):
            return
        agent = self.learner.agent()
        measured = [
            evaluate(
                agent,
                self.scenario.world,
                self.scenario.params,
                episodes=config.selection_episodes,
                opponent=judge,
                role=self.scenario.role,
                first_seed=SELECTION_SEED,
                deterministic=config.deterministic,
                progress=self.interrupts.check,
            )
            for judge in self.judges or [None]
        ]
        self.selections, self.unsaved = passed, True
        score = float(np.mean([each.summary["mean_return"] for each in measured]))
        self.progress.note(
            f"selection at {self.learner.steps:,} steps: mean return {score:.2f}{' (not compared)' * self.opposed}"
        )
        if self.opposed or score >= self.best:
            self.best = score
            saved = self.learner.save_agent()
            state = {**saved.state, "selection_return": score}
            self.kept = checkpoint.Checkpoint(self.run.agent, self.learner.steps, saved.tensors, state)
            self._keep_agent()

    def _keep_agent(self) -> None:
        """Let the agent's folder hold `kept` alone: a run that was killed may have left one of a later step there."""
        if self.kept is None:
            shutil.rmtree(self.run.agent, ignore_errors=True)
            return
        kept = self.kept
        written = checkpoint.save(self.run.agent, kept.step, kept.tensors, kept.state, keep_last=1)
        for other in self.run.agent.glob("step-*"):
            if other != written:
                shutil.rmtree(other)

    def _save(self) -> None:
        begin = time.perf_counter()
        if self.unsaved:
            saved = self.learner.save()
            state = {
                "learner": saved.state,
                "training": {
                    "best": None if self.best == -math.inf else self.best,
                    "selections": self.selections,
                    "metrics_size": self.metrics.size,
                    "kept": self.kept and {"step": self.kept.step, "state": self.kept.state},
                },
                "clock": self._elapsed(),
            }
            tensors = {**saved.tensors, "world": self.worlds.snapshot()}
            if self.kept is not None:
                tensors |= {_KEPT + name: arrays for name, arrays in self.kept.tensors.items()}
            keep = self.scenario.checkpoint.keep_last
            checkpoint.save(self.run.checkpoints, self.learner.steps, tensors, state, keep_last=keep)
            self.saved_at, self.unsaved = self.learner.steps, False
        cost = time.perf_counter() - begin
        self._due = time.perf_counter() + max(self.scenario.checkpoint.seconds, cost / COST_SHARE)

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self._begin

    def _finish(self, elapsed: float) -> Result:
        agent, step = load_agent(self.run.agent, self.scenario)
        evaluation = measure(agent, self.scenario, self.interrupts.check)
        evaluation.save(self.run.evaluation(step))
        result = Result(self.run, self.scenario, self.learner.steps, elapsed, evaluation.summary, self.first)
        if self.scenario.video:
            from .film import film

            filmed: dict[int, Path] = {}  # by episode: where all are equally good, the best is the worst as well
            for name, episode in ranked(evaluation).items():
                self.interrupts.check()
                path = result.videos[name] = self.run.videos / f"{name}.mp4"
                if (same := filmed.get(episode.index)) is not None:
                    for suffix in (".mp4", ".safetensors"):
                        replace_file(path.with_suffix(suffix), same.with_suffix(suffix).read_bytes())
                    continue
                self.progress.note(f"filming the {name} episode: return {episode.return_:.2f}")
                filmed[episode.index] = film(episode, self.scenario.world, self.scenario.params, path)
        return result
