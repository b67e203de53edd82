"""Model selection: keep the best agent of a training, by evaluations between its iterations.

The training loop (`trainer`) asks `Selection.is_due` after each iteration and calls `measure` when it is. That
evaluates the learner's agent on the seeds of `evaluate.SELECTION_SEED`, which neither training nor the final evaluation
uses, and writes the best agent so far into the run's folder `agent/`. The global random generators are as before
afterwards.
"""

from __future__ import annotations

import json
import math
import shutil
from typing import Any

from rl_lab.core import checkpoint
from rl_lab.core.agent import Agent, Learner, StateDict
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.interrupts import Interrupts
from rl_lab.evaluation.action_modes import (
    ModeResult,
    depends_on_mode,
    evaluation_modes,
    mode_result,
    opponent_is_deterministic,
    select_mode,
)
from rl_lab.evaluation.evaluate import SELECTION_SEED, evaluate, preserve_global_rng
from rl_lab.experiments.build import TrainingEnvs, evaluation_opponents
from rl_lab.experiments.learning_curve import earlier_lines
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario


class Selection:
    """The best agent so far, its score, and how many selections have been done."""

    def __init__(self, run: Run, scenario: Scenario, envs: TrainingEnvs, interrupts: Interrupts) -> None:
        self.run, self.scenario, self.interrupts = run, scenario, interrupts
        world = envs.world
        opponents = evaluation_opponents(scenario, getattr(envs, "batch", envs).world)
        self.evaluation_opponents: list[Agent | None] = [*opponents]
        # In self-play, the mean return over all agents says nothing about their strength, so the newest agent is kept.
        several_learners = scenario.league is not None or (bool(scenario.policies) and len(world.roles) > 1)
        self.is_self_play = not opponents and (bool(getattr(world, "zero_sum", False)) or several_learners)
        # The return in training can be compared with that of a selection only where the opponents are the same agents
        # and choose their actions in the same mode. In training, a frozen agent samples its actions, and a league's
        # learner plays the league's other learners and snapshots. An average policy samples its actions in both.
        opponent = scenario.opponent or {}
        opponent_is_frozen = "path" in opponent and not opponent["average"]
        opponent_samples_in_training = opponent_is_frozen or any(map(depends_on_mode, opponents))
        self.training_return_is_comparable = not (
            self.is_self_play or scenario.league is not None or opponent_samples_in_training
        )
        self.best_score = -math.inf
        self.best_agent: checkpoint.Checkpoint | None = None
        self.count = 0

    def is_due(self, steps: int) -> bool:
        """Return whether another 1/selections of the budget is done, or all of it without any selection so far."""
        return self._due_count(steps) > self.count or (steps >= self.scenario.budget and self.best_score == -math.inf)

    def measure(self, learner: Learner, training_return: float | None) -> tuple[ModeResult, str]:
        """Evaluate the learner's agent, and keep it if its mean return is at least the best so far; return the result.

        In self-play, the newest agent is kept. `training_return` is that of the last training episodes. The note says
        which actions were measured. Raises Interrupted after a signal; nothing has changed then.
        """
        config, agent = self.scenario.evaluation, learner.agent()
        modes = evaluation_modes(agent, config.actions, deterministic=config.deterministic)

        def measure_in(deterministic: bool) -> ModeResult:
            evaluations = [
                evaluate(
                    agent,
                    self.scenario.world,
                    self.scenario.params,
                    episodes=config.selection_episodes,
                    opponent=opponent,
                    role=self.scenario.role,
                    first_seed=SELECTION_SEED,
                    deterministic=deterministic,
                    opponent_deterministic=opponent_is_deterministic(modes),
                    progress=self.interrupts.check,
                )
                for opponent in self.evaluation_opponents or [None]
            ]
            return mode_result(deterministic, evaluations)

        with preserve_global_rng(), self.interrupts.abort_after(0.0):
            result, note = select_mode(
                modes, measure_in, training_return if self.training_return_is_comparable else None
            )
        self.count = self._due_count(learner.steps)
        self._write_score(learner.steps, result)
        if self.is_self_play or result.score >= self.best_score:
            self.best_score = result.score
            self.best_agent = self._agent_checkpoint(learner, result)
            self.write_best_agent()
        return result, note + " (self-play: the newest agent is kept)" * self.is_self_play

    def _write_score(self, steps: int, result: ModeResult) -> None:
        """Write the score to selections.jsonl, after those of fewer steps: a killed run may have left later ones."""
        line = json.dumps({"step": steps, "return": result.score, "length": result.length}) + "\n"
        atomic_write_bytes(self.run.selections, b"".join((*earlier_lines(self.run, steps), line.encode())))

    def write_best_agent(self) -> None:
        """Write the best agent into the run's agent/, and delete any other: a killed run may have left a later one."""
        best = self.best_agent
        if best is None:
            shutil.rmtree(self.run.agent, ignore_errors=True)
            return
        written = checkpoint.save(self.run.agent, best.step, best.tensors, best.state, keep_last=1)
        for other in self.run.agent.glob("step-*"):
            if other != written:
                shutil.rmtree(other)

    def _due_count(self, steps: int) -> int:
        """Return how many selections are due by this number of steps."""
        budget = self.scenario.budget
        return min(steps, budget) * self.scenario.evaluation.selections // budget

    def _agent_checkpoint(self, learner: Any, result: ModeResult) -> checkpoint.Checkpoint:
        """Return the learner's agent with the result of its selection, as a checkpoint that is not written yet."""
        state_dict = learner.save_agent()
        # What `rl-lab export` needs besides the agent, for example the optimizer's moments.
        export = learner.export_state() if hasattr(learner, "export_state") else StateDict({}, {})
        state = {**state_dict.state, "selection_return": result.score, "export": export.state}
        state["deterministic"] = result.deterministic
        return checkpoint.Checkpoint(self.run.agent, learner.steps, {**state_dict.tensors, **export.tensors}, state)
