"""Pretrain a backbone from a data set (`rl-lab pretrain`): `pretrain` starts a run, `resume` continues one.

A pretraining has a run's folder, with metrics and a checkpoint for each epoch, from which it resumes with the same
bits. The result is written into `backbone/` of the run. With the method `bc` (behaviour cloning), the run also gets an
agent of PPO that acts as the cloned policy, so that `rl-lab evaluate`, `watch` and `tournament` can load it as from any
other run. With `vae`, it gets a picture of reconstructions. Torch's number of threads and its global random generator
are set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rl_lab.adapters import make
from rl_lab.core.errors import UsageError
from rl_lab.core.interrupts import Interrupts
from rl_lab.core.progress import Progress
from rl_lab.core.symmetry import Symmetry
from rl_lab.datasets.dataset import Dataset, open_dataset
from rl_lab.engine import user_code
from rl_lab.experiments import pretraining_config, run_dir
from rl_lab.experiments.agent_loading import as_usage_error, device_of
from rl_lab.experiments.compose import compose
from rl_lab.experiments.pretraining_config import PretrainSettings
from rl_lab.experiments.pretraining_model import initial_model
from rl_lab.experiments.pretraining_run import Pretraining, PretrainResult, backbone_settings
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_metrics import check_metrics_file
from rl_lab.learners.pretraining import methods
from rl_lab.learners.pretraining.examples import Examples
from rl_lab.learners.pretraining.trainer import PretrainingTrainer

# The type of a function (method, settings, data, scenario) that returns a pretraining at its start. The scenario is
# that of a run that is resumed, None for a new one. The function raises UsageError where they do not go together.
Prepare = Callable[[str, PretrainSettings, Any, Scenario | None], Pretraining]
# The type of a function that returns the data to learn from, by default the data set `data`.
OpenData = Callable[[PretrainSettings], Any]


def _open_dataset(settings: PretrainSettings) -> Dataset:
    return open_dataset(Path(settings.data))


def pretrain(
    method: str,
    settings: PretrainSettings,
    command: list[str],
    progress: Progress,
    prepare_method: Prepare | None = None,
    open_data: OpenData = _open_dataset,
) -> PretrainResult:
    """Start a pretraining: `prepare_method` makes it, by default of a backbone; nothing is written if that fails.

    Raises:
        UsageError: the data, the backbone and the world do not go together, or the run's folder exists.
        Interrupted: a signal has ended the training; `run` can be resumed.
    """
    user_code.refuse_while_loading()
    with Interrupts() as interrupts:
        with interrupts.abort_after(0.0):
            data = open_data(settings)
            training = (prepare_method or prepare)(method, settings, data, None)
        with run_dir.new_run(training.scenario, command) as run:
            pretraining_config.write(run.path, method, settings, data.content_hash)
            return training.run(run, progress, interrupts)


def resume(
    run: Run, progress: Progress, prepare_method: Prepare | None = None, open_data: OpenData = _open_dataset
) -> PretrainResult:
    """Continue a pretraining from its newest valid checkpoint, with the same bits. Raises as `pretrain`."""
    method, settings, data_hash = pretraining_config.read(run.path)
    with Interrupts() as interrupts, run_dir.locked_run(run) as scenario:
        with interrupts.abort_after(0.0):
            data = open_data(settings)
            if data.content_hash != data_hash:
                now, then = data.content_hash[:12], data_hash[:12]
                name = settings.data or settings.world
                raise UsageError(f"{name} has other data than at the start: SHA-256 {now}..., not {then}...")
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


def prepare(method: str, settings: PretrainSettings, data: Dataset, scenario: Scenario | None) -> Pretraining:
    """Return the pretraining of a backbone at its start; see `Prepare`."""
    if scenario is None:
        scenario = scenario_of(method, settings, data, ["agent=ppo"])
    torch.set_num_threads(settings.threads)
    try:
        device = device_of(settings.device)
        torch.manual_seed(settings.seed)
        model, initial_backbone = initial_model(method, settings, scenario, data)
        examples = Examples(data, settings.validation, settings.seed, device, _symmetries(method, settings, scenario))
        trainer = PretrainingTrainer(method, model.to(device), examples, settings.trainer(), seed=settings.seed)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    scenario = dataclasses.replace(scenario, backbone=backbone_settings(model.spec, Path("backbone")))
    return Pretraining(method, scenario, trainer, data, initial_backbone)


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
