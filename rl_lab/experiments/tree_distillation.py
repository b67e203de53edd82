"""Distil an agent into a decision tree, or a sum of trees, by `rl-lab pretrain tree`.

`distil` starts a run, `resume` starts it from the beginning.

Source: Bastani, Pu and Solar-Lezama, Verifiable Reinforcement Learning via Policy Extraction (VIPER), NeurIPS 2018. As
in DAgger, each new tree plays episodes and the teacher says what it would have done in them; the next tree is fitted to
all decisions so far. The weight of a decision is the teacher's value of its best action minus that of its worst; the
paper draws a sample by these weights instead.

In the run's folder, `tree/` gets the best tree as JSON and as rules, and `agent/` a checkpoint, so that `rl-lab
evaluate`, `watch` and `tournament` can load it as from any other run. An interrupted distillation has no checkpoint to
continue from: it begins again, and ends with the same tree.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.adapters import make
from rl_lab.core import checkpoint
from rl_lab.core.agent import Agent
from rl_lab.core.errors import UsageError
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.interrupts import Interrupted, Interrupts
from rl_lab.core.progress import Progress
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array
from rl_lab.engine import user_code
from rl_lab.evaluation.demonstrations import DemonstrationPlan, Demonstrations, demonstrate
from rl_lab.evaluation.evaluate import SELECTION_SEED, evaluate
from rl_lab.experiments import run_dir, tree_config
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.build import evaluate_scenario, evaluation_opponents
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.teachers import load_teacher, scenario_and_teacher
from rl_lab.experiments.training_metrics import Metrics
from rl_lab.experiments.tree_config import TreeRequest, TreeSettings
from rl_lab.learners.pretraining import boosted_fit, tree_files, tree_fit
from rl_lab.learners.pretraining.boosted_fit import Boosting
from rl_lab.learners.pretraining.contract import contract_of
from rl_lab.learners.pretraining.tree_agent import TREE_TENSORS, TreeAgent, action_kind
from rl_lab.learners.pretraining.tree_ensemble import TreeEnsemble
from rl_lab.learners.pretraining.tree_files import Trees
from rl_lab.learners.pretraining.tree_rules import ensemble_rules, rules

RULES = "rules.md"


@dataclass(frozen=True)
class DistillationResult:
    """The result of a distillation. `scores` are those by which the tree was selected; `summary` is its evaluation."""

    run: Run
    tree: Trees
    seconds: float
    scores: dict[str, float]
    summary: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of tree.json and the rules."""
        return self.run.path / "tree"

    def as_json(self) -> dict[str, Any]:
        """Return what `pretrain tree --json` prints."""
        return {
            "run_dir": str(self.run.path),
            "tree": str(self.folder),
            "sha256": tree_files.sha256(self.tree),
            "depth": self.tree.depth,
            "leaves": self.tree.num_leaves,
            "trees": self.tree.num_trees if isinstance(self.tree, TreeEnsemble) else 1,
            "seconds": round(self.seconds, 3),
            "scores": self.scores,
            **self.summary,
        }


def distil(request: TreeRequest, command: list[str], progress: Progress) -> DistillationResult:
    """Distil a teacher into a tree. Nothing is written before teacher and world are known to go together.

    Raises:
        UsageError: teacher, world and settings do not go together, a library is missing, or the run's folder exists.
        Interrupted: a signal has ended the work; resuming `run` begins it again.
    """
    user_code.refuse_while_loading()
    with Interrupts() as interrupts:
        with interrupts.abort_after(0.0):
            lines = ["agent=tree", *request.scenario_lines]
            scenario, teacher = scenario_and_teacher("pretrain tree", request.teacher, lines)
            distillation = _Distillation(scenario, request.settings, teacher)
        with run_dir.new_run(scenario, command) as run:
            tree_config.write(run.path, request.settings, teacher)
            return distillation.run(run, progress, interrupts)


def resume(run: Run, progress: Progress) -> DistillationResult:
    """Begin a distillation again, with the same result. Raises as `distil`."""
    settings, teacher = tree_config.read(run.path)
    with Interrupts() as interrupts, run_dir.locked_run(run) as scenario:
        with interrupts.abort_after(0.0):
            distillation = _Distillation(scenario, settings, teacher)
        return distillation.run(run, progress, interrupts)


class _Distillation:
    """The loop of DAgger, and its best tree. Raises UsageError where teacher, world and settings do not fit."""

    def __init__(self, scenario: Scenario, settings: TreeSettings, teacher: dict[str, Any]) -> None:
        if settings.model in boosted_fit.NAMES:
            boosted_fit.library(settings.model)
        else:
            tree_fit.sklearn_tree()
        self.scenario, self.settings, self.teacher_description = scenario, settings, teacher
        try:
            envs = make.make(scenario.world, 1, scenario.params)
            self.world: EnvSpec = envs.world
            envs.close()
            self.kind, self.contract = action_kind(self.world), contract_of(self.world.observation)
            self.teacher: Agent = load_teacher("distillation.json", teacher, self.world)
            self.opponents: list[Agent | None] = [*evaluation_opponents(scenario, self.world)]
        except UsageError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"teacher: {error}") from None
        names, size = settings.feature_names, int(np.prod(self.contract.shape))
        if names and len(names) != size:
            raise UsageError(f"feature_names has {len(names)} names; {self.world.name} observes {size} numbers")
        # In self-play, the mean return over all agents says nothing about their strength.
        self.is_self_play = not self.opponents and bool(getattr(self.world, "zero_sum", False))
        self.best: tuple[float, int] | None = None
        self.best_tree: Trees | None = None
        self.best_scores: dict[str, float] = {}

    def run(self, run: Run, progress: Progress, interrupts: Interrupts) -> DistillationResult:
        """Fit all trees, write the best one and evaluate it."""
        begin = time.perf_counter()
        try:
            with interrupts.abort_after(0.0):
                self._fit_all(run, progress, interrupts)
                assert self.best_tree is not None
                self._write(run, self.best_tree)
                agent, step = load_agent(run.agent, run.scenario())
                evaluation = evaluate_scenario(agent, run.scenario(), interrupts.check)
        except ValueError as error:  # of the world or of the teacher
            raise UsageError(str(error)) from None
        except Interrupted as stop:
            stop.run, stop.is_work_lost = run, True
            raise
        evaluation.save(run.evaluation(step))
        seconds = time.perf_counter() - begin
        return DistillationResult(run, self.best_tree, seconds, self.best_scores, evaluation.summary)

    def _fit_all(self, run: Run, progress: Progress, interrupts: Interrupts) -> None:
        settings, scenario = self.settings, self.scenario
        plan = DemonstrationPlan(
            scenario.world,
            scenario.params,
            settings.rollout_episodes,
            settings.rollout_steps,
            scenario.seed,
            settings.noise,
        )
        metrics = Metrics(run, size=0, step=0)
        parts: list[Demonstrations] = []
        player: Agent | None = None
        progress.begin(0, settings.iterations)
        try:
            for iteration in range(settings.iterations):
                parts.append(demonstrate(plan, self.teacher, player, iteration))
                interrupts.check()
                data = Demonstrations.concatenate(parts)
                tree = self._fit(data)
                player = TreeAgent(tree)
                scores = self._scores(tree, data, interrupts)
                self._keep_best(tree, scores)
                metrics.write(iteration + 1, {f"tree/{name}": value for name, value in scores.items()}, {})
                values = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
                progress.note(f"tree {iteration + 1}: {values}")
                progress.show(iteration + 1, None, {})
        finally:
            metrics.close()
        progress.end()

    def _fit(self, data: Demonstrations) -> Trees:
        settings = self.settings
        num_actions = int(self.world.action.n) if isinstance(self.world.action, Discrete) else None
        size: dict[str, Any] = {
            "max_depth": settings.max_depth,
            "max_leaf_nodes": settings.max_leaf_nodes,
            "min_samples_leaf": settings.min_samples_leaf,
            "seed": self.scenario.seed,
        }
        observations, actions, weights = data.observations, data.actions, self._weights(data)
        spaces: dict[str, Any] = {"contract": self.contract, "num_actions": num_actions}
        if settings.model not in boosted_fit.NAMES:
            model = tree_fit.estimator(num_actions, **size)
            return tree_fit.fit(model, observations, actions, weights, **spaces)
        boosting = Boosting(settings.num_trees, settings.learning_rate, **size)
        return boosted_fit.fit(settings.model, boosting, observations, actions, weights, **spaces)

    def _weights(self, data: Demonstrations) -> Array:
        """Return the weights of the decisions; equal ones where none matters to the teacher."""
        if not self.settings.weighted or not data.weights.sum() > 0:
            return np.ones(len(data.weights))
        return np.asarray(data.weights / data.weights.mean())

    def _scores(self, tree: Trees, data: Demonstrations, interrupts: Interrupts) -> dict[str, float]:
        """Return the mean return on the selection's seeds, and how well the tree imitates its training data."""
        evaluations = [
            evaluate(
                TreeAgent(tree),
                self.scenario.world,
                self.scenario.params,
                episodes=self.scenario.evaluation.selection_episodes,
                opponent=opponent,
                role=self.scenario.role,
                first_seed=SELECTION_SEED,
                progress=interrupts.check,
            )
            for opponent in self.opponents or [None]
        ]
        scores = {"mean_return": float(np.mean([each.summary["mean_return"] for each in evaluations]))}
        actions = tree.act(data.observations, data.action_mask)
        if self.kind == "discrete":
            scores["agreement"] = float((actions == data.actions).mean())
        else:
            scores["mean_squared_error"] = float(np.mean((actions - data.actions) ** 2))
        return {**scores, "leaves": tree.num_leaves, "depth": tree.depth, "decisions": len(data.actions)}

    def _keep_best(self, tree: Trees, scores: dict[str, float]) -> None:
        """Keep the tree with the best mean return, or of self-play the best imitation; of equal ones the smallest."""
        imitation = scores.get("agreement", -scores.get("mean_squared_error", 0.0))
        rank = (imitation if self.is_self_play else scores["mean_return"], -tree.num_leaves)
        if self.best is None or rank > self.best:
            self.best, self.best_tree, self.best_scores = rank, tree, scores

    def _write(self, run: Run, tree: Trees) -> None:
        """Write the tree, its rules, and the checkpoint of its agent."""
        scenario, folder = self.scenario, run.path / "tree"
        settings = {**dataclasses.asdict(self.settings), "seed": scenario.seed}
        about = {
            "world": scenario.world,
            "teacher": self.teacher_description,
            "settings": settings,
            "scores": self.best_scores,
        }
        tree_files.save(folder, tree, about)
        atomic_write_bytes(folder / RULES, self._rules(tree).encode())
        tensors, state = tree_files.as_state(tree)
        shutil.rmtree(run.agent, ignore_errors=True)
        # A checkpoint is named by a number of steps. The decisions that the tree was fitted to take their place here.
        step = int(self.best_scores["decisions"])
        checkpoint.save(run.agent, step, {TREE_TENSORS: tensors}, {**state, "deterministic": True}, keep_last=1)

    def _rules(self, tree: Trees) -> str:
        """Return what rules.md says: all rules of a tree, or those of the first of many trees."""
        teacher = self.teacher_description.get("path") or self.teacher_description["name"]
        masked, names = self.world.has_action_mask, self.settings.feature_names
        title, sizes = f"for {self.scenario.world}", f"{teacher}: depth {tree.depth}, {tree.num_leaves} leaves"
        if isinstance(tree, TreeEnsemble):
            shown = min(3, tree.num_trees)
            head = f"# {tree.num_trees} boosted trees {title}\n\nThey imitate {sizes} in all. "
            if tree.action_kind == "discrete":
                begin = ", ".join(f"{score:.4g}" for score in tree.nodes.base)
                head += f"Each action has a score; before the first tree the scores are [{begin}]. "
                head += "In each tree exactly one rule applies to an observation, and adds its number to one score. "
                head += f"The {'legal action' if masked else 'action'} with the highest score is taken. "
            else:
                head += "In each tree exactly one rule applies, and adds its number to one number of the action. "
            return f"{head}The first {shown} trees are shown.\n\n{ensemble_rules(tree, names, first=shown)}"
        head = f"# A decision tree {title}\n\nIt imitates {sizes}. "
        head += "Exactly one rule applies to an observation, and names the action."
        head += " Where it is illegal, the next one is taken.\n\n" if masked else "\n\n"
        return head + rules(tree, names, all_legal=not masked)
