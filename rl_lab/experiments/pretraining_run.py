"""The loop of a pretraining, and what it writes into its run's folder: see `pretraining`, which begins and resumes it.

The global random generator of torch is used, and restored where an agent is written.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rl_lab.adapters import make
from rl_lab.core import checkpoint
from rl_lab.core.agent import StateDict
from rl_lab.core.interrupts import Interrupted, Interrupts
from rl_lab.core.progress import Progress
from rl_lab.datasets.dataset import Dataset
from rl_lab.experiments import observation_sheet
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.build import evaluate_scenario
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_metrics import Metrics
from rl_lab.learners.pretraining import folder
from rl_lab.learners.pretraining.card import pretrainings
from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.settings import BackboneSettings
from rl_lab.learners.pretraining.spec import BackboneSpec
from rl_lab.learners.pretraining.trainer import PretrainingTrainer
from rl_lab.learners.sb3.backbone import actor_critic_state

_SECONDS_BETWEEN_CHECKPOINTS = 5.0  # epochs over few demonstrations take less time than a checkpoint


@dataclass(frozen=True)
class PretrainResult:
    """The result of a pretraining. `summary` is that of the agent's evaluation, None without an agent."""

    run: Run
    method: str
    sha256: str
    epochs: int
    updates: int
    seconds: float
    scores: dict[str, float]
    score_split: str  # the episodes that `scores` are of: "validation" or, if there are none of these, "train"
    summary: dict[str, Any] | None
    has_backbone: bool = True  # False for a policy that is no backbone: the run has no folder backbone/ then
    levels: dict[str, Any] | None = None  # what was measured of levels that were made

    def as_json(self) -> dict[str, Any]:
        """Return what `pretrain --json` prints."""
        values = {name: getattr(self, name) for name in ("method", "sha256", "epochs", "updates", "scores")}
        return {
            "run_dir": str(self.run.path),
            **({"backbone": str(self.run.backbone)} if self.has_backbone else {}),
            **values,
            "seconds": round(self.seconds, 3),
            **(self.summary or {}),
            **({} if self.levels is None else {"levels": self.levels}),
        }


def backbone_settings(spec: BackboneSpec, path: Path) -> BackboneSettings:
    """Return how a scenario names the backbone of a pretraining, whose folder is `path`."""
    return BackboneSettings(str(path), spec=spec.as_json())


class Pretraining:
    """The loop over epochs. It writes metrics and checkpoints, and at the end the backbone's folder and the agent.

    `scenario` is written into the run's folder. A subclass changes what is written at the end.
    """

    has_backbone = True

    def __init__(
        self,
        method: str,
        scenario: Scenario,
        trainer: PretrainingTrainer,
        data: Any,
        initial_backbone: SavedBackbone | None,
    ) -> None:
        self.method, self.scenario, self.trainer = method, scenario, trainer
        self.data: Dataset = data  # a subclass may have learned from something else
        self.initial_backbone = initial_backbone  # None for a new one
        self.metrics_size, self.seconds = 0, 0.0

    @property
    def has_agent(self) -> bool:
        """Return whether an agent is written."""
        return "policy" in self.trainer.model.spec.heads

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the state of a checkpoint. Raises KeyError or ValueError where it does not fit."""
        self.trainer.restore(StateDict(saved.tensors, saved.state["trainer"]))
        self.metrics_size, self.seconds = int(saved.state["metrics_size"]), float(saved.state["clock"])

    def run(self, run: Run, progress: Progress, interrupts: Interrupts) -> PretrainResult:
        """Train until the last epoch or the early stop, then write the backbone and evaluate its agent."""
        try:
            return self._run(run, progress, interrupts)
        except Interrupted as stop:
            stop.run, stop.is_work_lost = run, not self.trainer.is_done
            raise

    def _run(self, run: Run, progress: Progress, interrupts: Interrupts) -> PretrainResult:
        trainer = self.trainer
        size = run.metrics.stat().st_size if run.metrics.exists() else 0
        metrics = Metrics(run, size=min(self.metrics_size, size), step=trainer.updates)
        total = trainer.config.epochs * trainer.updates_per_epoch
        progress.note(self.first_line())
        progress.begin(trainer.updates, total)

        def after_update(updates: int) -> None:
            interrupts.check()
            progress.show(updates, None, {})

        begin = last_save = time.perf_counter()
        begin -= self.seconds
        try:
            while not trainer.is_done:
                values = trainer.train_epoch(after_update)
                self.seconds = time.perf_counter() - begin
                metrics.write(trainer.updates, {"epoch": trainer.epoch, **values}, {"time/seconds": self.seconds})
                scores = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
                progress.note(f"epoch {trainer.epoch}: {scores}")
                now = time.perf_counter()
                if trainer.is_done or now - last_save >= _SECONDS_BETWEEN_CHECKPOINTS:
                    metrics.sync()
                    self._save(run, metrics.size)
                    last_save = now
                interrupts.check()
        finally:
            metrics.close()
        progress.end()
        return self.finish(run, interrupts)

    def first_line(self) -> str:
        """Return what is trained, and on which data."""
        trainer, (train, validation) = self.trainer, self.trainer.examples.episodes
        spec, backbone = trainer.model.spec, self.initial_backbone
        initial = "new" if backbone is None else backbone.sha256[:12]
        episodes = f"{train} episodes, {validation} to validate with"
        return f"{self.method} in {self.scenario.world}: {spec.network.kind} ({initial}), {self.data.path}: {episodes}"

    def _save(self, run: Run, metrics_size: int) -> None:
        saved = self.trainer.save()
        state = {"trainer": saved.state, "metrics_size": metrics_size, "clock": self.seconds}
        keep = self.scenario.checkpoint.keep_last
        checkpoint.save(run.checkpoints, self.trainer.updates, saved.tensors, state, keep_last=keep)

    def write(self, run: Run) -> str:
        """Write the backbone's folder and, where it has a policy, the agent; return the hash of the backbone."""
        model = self.trainer.finished_model()
        sha256 = folder.save(run.backbone, model, self._model_card())
        if "policy" in model.spec.heads:
            self._write_agent(run, model)
        return sha256

    def finish(self, run: Run, interrupts: Interrupts) -> PretrainResult:
        """Write what was trained, evaluate its agent if there is one, and return the result."""
        trainer, sha256, summary = self.trainer, self.write(run), None
        if self.has_agent:
            with interrupts.abort_after(0.0):
                agent, step = load_agent(run.agent, run.scenario())
                evaluation = evaluate_scenario(agent, run.scenario(), interrupts.check)
            evaluation.save(run.evaluation(step))
            summary = evaluation.summary
        trainer.load_best()
        if pictures := trainer.method.pictures(trainer.model, observation_sheet.COLUMNS):
            observation_sheet.write_sheet(run.path / observation_sheet.NAME, pictures, self.data.observation_space)
        spent = (trainer.epoch, trainer.updates, self.seconds)
        return PretrainResult(
            run, self.method, sha256, *spent, trainer.best_scores, trainer.score_split, summary, self.has_backbone
        )

    def _model_card(self) -> dict[str, Any]:
        trainer, data = self.trainer, self.data
        return {
            "method": self.method,
            "world": self.scenario.world,
            "data": {
                "path": str(data.path),
                "sha256": data.content_hash,
                "episodes": data.num_episodes,
                "steps": data.num_steps,
            },
            "spent": {"epochs": trainer.epoch, "updates": trainer.updates},
            "settings": {**dataclasses.asdict(trainer.config), "seed": trainer.seed},
            "scores": trainer.best_scores,
            "began_with": None if self.initial_backbone is None else self.initial_backbone.sha256,
            "earlier": [] if self.initial_backbone is None else pretrainings(self.initial_backbone.card),
        }

    def _write_agent(self, run: Run, model: BackboneModel) -> None:
        """Write the checkpoint of an agent of PPO that acts as the cloned policy does."""
        settings = backbone_settings(model.spec, run.backbone)
        envs = make.make(self.scenario.world, 1, self.scenario.params)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.trainer.seed)  # for the random parameters of a value head that was not trained
            tensors = actor_critic_state(settings, envs.world, folder.load(run.backbone))
        envs.close()
        shutil.rmtree(run.agent, ignore_errors=True)
        checkpoint.save(run.agent, self.trainer.updates, {"policy": tensors}, {"deterministic": True}, keep_last=1)
