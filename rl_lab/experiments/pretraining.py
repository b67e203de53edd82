"""Pretrain a backbone from a data set (`rl-lab pretrain`): `pretrain` starts a run, `resume` continues one.

A pretraining has a run's folder, with metrics and a checkpoint for each epoch, from which it resumes with the same
bits. The result is written into `backbone/` of the run. With the method `bc` (behaviour cloning), the run also gets an
agent of PPO that acts as the cloned policy, so that `rl-lab evaluate`, `watch` and `tournament` can load it as from any
other run. With `vae`, it gets a picture of reconstructions. Torch's number of threads and its global random generator
are set.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rl_lab.adapters import make
from rl_lab.core import checkpoint
from rl_lab.core.agent import StateDict
from rl_lab.core.errors import UsageError
from rl_lab.core.interrupts import Interrupted, Interrupts
from rl_lab.core.progress import Progress
from rl_lab.core.symmetry import Symmetry
from rl_lab.datasets.dataset import Dataset, open_dataset
from rl_lab.engine import user_code
from rl_lab.experiments import observation_sheet, pretraining_config, run_dir
from rl_lab.experiments.agent_loading import as_usage_error, device_of, load_agent
from rl_lab.experiments.backbone_config import find_backbone
from rl_lab.experiments.build import evaluate_scenario
from rl_lab.experiments.compose import compose
from rl_lab.experiments.pretraining_config import PretrainSettings
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_metrics import Metrics, check_metrics_file
from rl_lab.learners.pretraining import folder, methods, networks
from rl_lab.learners.pretraining.contract import contract_of, require_same
from rl_lab.learners.pretraining.examples import Examples
from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.settings import BackboneSettings
from rl_lab.learners.pretraining.spec import BackboneSpec, Network, action_contract
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
    scored: str  # on which episodes: validation or, where there are no such ones, train
    summary: dict[str, Any] | None
    has_backbone: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return what `pretrain --json` prints."""
        values = {name: getattr(self, name) for name in ("method", "sha256", "epochs", "updates", "scores")}
        return {
            "run_dir": str(self.run.path),
            **({"backbone": str(self.run.backbone)} if self.has_backbone else {}),
            **values,
            "seconds": round(self.seconds, 3),
            **(self.summary or {}),
        }


# The type of a function (method, settings, data, scenario) that returns a pretraining at its start. The scenario is
# that of a run that is resumed, None for a new one. The function raises UsageError where they do not go together.
Prepare = Callable[[str, PretrainSettings, Dataset, Scenario | None], "Pretraining"]


def pretrain(
    method: str,
    settings: PretrainSettings,
    command: list[str],
    progress: Progress,
    prepare_method: Prepare | None = None,
) -> PretrainResult:
    """Train from the start what `prepare_method` prepares, by default a backbone. Nothing is written before that.

    Raises:
        UsageError: the data, the backbone and the world do not go together, or the run's folder exists.
        Interrupted: a signal has ended the training; `run` can be resumed.
    """
    user_code.refuse_while_loading()
    with Interrupts() as interrupts:
        with interrupts.abort_after(0.0):
            data = open_dataset(Path(settings.data))
            training = (prepare_method or prepare)(method, settings, data, None)
        with run_dir.new_run(training.scenario, command) as run:
            pretraining_config.write(run.path, method, settings, data.content_hash)
            return training.run(run, progress, interrupts)


def resume(run: Run, progress: Progress, prepare_method: Prepare | None = None) -> PretrainResult:
    """Continue a pretraining from its newest valid checkpoint, with the same bits. Raises as `pretrain`."""
    method, settings, data_hash = pretraining_config.read(run.path)
    with Interrupts() as interrupts, run_dir.locked_run(run) as scenario:
        with interrupts.abort_after(0.0):
            data = open_dataset(Path(settings.data))
            if data.content_hash != data_hash:
                now, then = data.content_hash[:12], data_hash[:12]
                raise UsageError(f"{settings.data} has other data than at the start: SHA-256 {now}..., not {then}...")
            training = (prepare_method or prepare)(method, settings, data, scenario)
            saved = run_dir.load_latest(run)
            if saved is not None:
                with as_usage_error(saved.path):
                    training.restore(saved)
                check_metrics_file(run, training.metrics_size, saved.step)
        return training.run(run, progress, interrupts)


def scenario_of(method: str, settings: PretrainSettings, data: Dataset, agent: list[str]) -> Scenario:
    """Return the scenario in which an agent is evaluated. Raises UsageError where it does not fit the data.

    `agent` are the overrides that name the agent and its hyperparameters.
    """
    name = settings.world or data.world
    if not name:
        raise UsageError(f"{data.path} does not say which world it is of: add world=NAME")
    if not settings.world and user_code.is_code(name):
        raise UsageError(f"{data.path} is of a world of a user's own, {name}: name it yourself, world={name}")
    lines = [*agent, "video=false", f"seed={settings.seed}", f"device={settings.device}"]
    lines += [f"threads={settings.threads}", f"evaluation.episodes={settings.episodes}"]
    lines += [] if settings.run_dir is None else [f"run_dir={settings.run_dir}"]
    scenario = compose(name, lines)
    params = data.info.get("params")
    if isinstance(params, dict):
        world_params = {key: value for key, value in params.items() if key in scenario.params}
        scenario = dataclasses.replace(scenario, params={**scenario.params, **world_params})
    return dataclasses.replace(
        scenario, name=f"{method}-{scenario.name}", policies={}, league=None, expect={}, overrides=()
    )


def _backbone_settings(spec: BackboneSpec, path: Path) -> BackboneSettings:
    return BackboneSettings(str(path), spec=spec.as_json())


def prepare(method: str, settings: PretrainSettings, data: Dataset, scenario: Scenario | None) -> Pretraining:
    """Return the pretraining of a backbone at its start; see `Prepare`."""
    if scenario is None:
        scenario = scenario_of(method, settings, data, ["agent=ppo"])
    torch.set_num_threads(settings.threads)
    try:
        device = device_of(settings.device)
        torch.manual_seed(settings.seed)
        model, initial_backbone = _model(method, settings, scenario, data)
        examples = Examples(data, settings.validation, settings.seed, device, _symmetries(method, settings, scenario))
        trainer = PretrainingTrainer(method, model.to(device), examples, settings.trainer(), seed=settings.seed)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    scenario = dataclasses.replace(scenario, backbone=_backbone_settings(model.spec, Path("backbone")))
    return Pretraining(method, scenario, trainer, data, initial_backbone)


def _model(
    method: str, settings: PretrainSettings, scenario: Scenario, data: Dataset
) -> tuple[BackboneModel, SavedBackbone | None]:
    """Return the network with a head for the method, and the backbone that it began with, None for a new one."""
    envs = make.make(scenario.world, 1, scenario.params)
    world = envs.world
    envs.close()
    data.require_world(world)
    head, observation_contract = methods.HEADS[method], contract_of(world.observation)
    if settings.backbone in networks.names() or networks.is_code(settings.backbone):
        network = _new_network(settings, scenario)
        action = action_contract(world.action) if head == "policy" else None
        heads: tuple[str, ...] = () if head is None else (head,)
        spec = BackboneSpec(network, observation_contract, action, heads, tuple(settings.net_arch), settings.activation)
        return BackboneModel(spec), None
    initial_backbone = find_backbone(settings.backbone)
    if settings.network or settings.net_arch:
        raise UsageError(f"{settings.backbone} has its own layers: leave backbone.KEY and net_arch out")
    require_same(initial_backbone.spec.observation, observation_contract, f"backbone {settings.backbone}", world.name)
    if head is None:  # the heads of a backbone do not fit a trunk that is trained further
        spec = dataclasses.replace(initial_backbone.spec, action=None, heads=())
        model = BackboneModel(spec)
        model.trunk.load_state_dict(initial_backbone.part("trunk"))
        return model, initial_backbone
    other_heads = tuple(other_head for other_head in initial_backbone.spec.heads if other_head != head)
    if other_heads and not settings.freeze_trunk:
        raise UsageError(
            f"{settings.backbone} has a {other_heads[0]} head, which fits its trunk: add freeze_trunk=true"
        )
    heads = tuple(each for each in ("policy", "value") if each == head or each in initial_backbone.spec.heads)
    action = action_contract(world.action) if "policy" in heads else None
    if initial_backbone.spec.action not in (None, action):
        raise UsageError(f"{settings.backbone} has a policy for {initial_backbone.spec.action}, not for {action}")
    model = BackboneModel(dataclasses.replace(initial_backbone.spec, action=action, heads=heads))
    tensors = {
        name: value
        for name, value in initial_backbone.tensors.items()
        if not (method == "critic" and name.startswith("value."))
    }
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()}, strict=False)
    return model, initial_backbone


def _symmetries(method: str, settings: PretrainSettings, scenario: Scenario) -> tuple[Symmetry, ...]:
    """Return the world's symmetries, if they are to be used. Raises UsageError where method or world has none."""
    if not settings.symmetries:
        return ()
    if methods.HEADS[method] is None:  # it predicts what follows, which would have to be seen in the same form
        raise UsageError(f"symmetries=true is for bc, critic and dagger, not for {method}")
    envs = make.make(scenario.world, 1, scenario.params)
    symmetries: tuple[Symmetry, ...] = getattr(envs.world, "symmetries", ())
    envs.close()
    if not symmetries:
        raise UsageError(f"{scenario.world} declares no symmetries: leave symmetries=true out")
    return symmetries


def _new_network(settings: PretrainSettings, scenario: Scenario) -> Network:
    """Return the network of a new backbone; a user's module may run because it was typed, or else if it is trusted."""
    if scenario.backbone is not None:  # the pretraining is resumed
        return scenario.backbone.backbone_spec().network
    if networks.is_code(settings.backbone):
        return networks.network_of_code(settings.backbone, settings.network)
    return networks.network_of(settings.backbone, settings.network)


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
        data: Dataset,
        initial_backbone: SavedBackbone | None,
    ) -> None:
        self.method, self.scenario, self.trainer, self.data = method, scenario, trainer, data
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
        spec, begin = trainer.model.spec, "new" if self.initial_backbone is None else self.initial_backbone.sha256[:12]
        episodes = f"{train} episodes, {validation} to validate with"
        return f"{self.method} in {self.scenario.world}: {spec.network.kind} ({begin}), {self.data.path}: {episodes}"

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
            run, self.method, sha256, *spent, trainer.best_scores, trainer.scored, summary, self.has_backbone
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
        }

    def _write_agent(self, run: Run, model: BackboneModel) -> None:
        """Write the checkpoint of an agent of PPO that acts as the cloned policy does."""
        settings = _backbone_settings(model.spec, run.backbone)
        envs = make.make(self.scenario.world, 1, self.scenario.params)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.trainer.seed)  # for the random parameters of a value head that was not trained
            tensors = actor_critic_state(settings, envs.world, folder.load(run.backbone))
        envs.close()
        shutil.rmtree(run.agent, ignore_errors=True)
        checkpoint.save(run.agent, self.trainer.updates, {"policy": tensors}, {"deterministic": True}, keep_last=1)
