"""Train a model of a world's levels, and make levels with it (`rl-lab pretrain levels`).

The run is that of a pretraining, see `pretraining`, with `levels/` in place of a backbone: the levels that were learned
from, those that were made and that the world's expert solves, a card with what was measured, and a picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_lab.adapters import level_files, make
from rl_lab.core.errors import UsageError
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.interrupts import Interrupts
from rl_lab.core.levels import GRIDS
from rl_lab.core.random_streams import GeneratorStream
from rl_lab.core.world import Array, World
from rl_lab.evaluation import level_checks
from rl_lab.experiments import observation_sheet
from rl_lab.experiments.agent_loading import device_of
from rl_lab.experiments.compose import compose
from rl_lab.experiments.pretraining_config import (
    TRAINER_KEYS,
    PretrainSettings,
    as_settings,
    check_ranges,
    parse_model_lines,
)
from rl_lab.experiments.pretraining_run import Pretraining, PretrainResult
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario import Scenario
from rl_lab.learners.generative.level_network import sample_grids
from rl_lab.learners.generative.level_training import LevelExamples, LevelSet, LevelTraining
from rl_lab.learners.generative.settings import LevelModelConfig
from rl_lab.learners.pretraining.trainer import PretrainingTrainer
from rl_lab.rendering.render import picture

FOLDER, PLAYABLE, TRAINING, CARD, PICTURE = "levels", "levels.json", "training.json", "card.json", "levels.png"
_DEFAULTS: dict[str, Any] = {"epochs": 100, "patience": 20, "batch_size": 64, "learning_rate": 2e-3}


def parse_settings(lines: Iterable[str]) -> PretrainSettings:
    """Return the settings that key=value lines describe. Raises UsageError, in one line, for wrong ones."""
    model_keys = [each.name for each in dataclasses.fields(LevelModelConfig)]
    node = {**_DEFAULTS, **parse_model_lines("levels", lines, model_keys, is_agent=False)}
    if node.get("data") and "levels" in node["agent"]:
        raise UsageError("levels= counts the world's own levels; with data=FILE, all levels of the file are used")
    if not node.get("world"):
        raise UsageError("say whose levels are to be learned: world=NAME")
    settings = check_ranges(as_settings(PretrainSettings, node))
    model_config(settings)
    return settings


def model_config(settings: PretrainSettings) -> LevelModelConfig:
    """Return the hyperparameters of the model. Raises UsageError for one out of range."""
    config = as_settings(LevelModelConfig, settings.agent)
    try:
        config.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    return config


def _world(name: str) -> World:
    envs = make.make(name, 1)
    envs.close()
    level_checks.levels_of(envs.world)
    assert isinstance(envs.world, World)
    return envs.world


def open_levels(settings: PretrainSettings) -> LevelSet:
    """Return the levels to learn from: those of the file `data`, or else the world's own. Raises UsageError."""
    try:
        world = _world(settings.world)
        if settings.data:
            grids = np.unique(level_files.read(Path(settings.data), world), axis=0)
            return LevelSet(grids, settings.data)
        return LevelSet(level_checks.own_levels(world, model_config(settings).levels, settings.seed), world.name)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None


def prepare(method: str, settings: PretrainSettings, data: LevelSet, scenario: Scenario | None) -> LevelPretraining:
    """Return the training at its start; see `pretraining.Prepare`."""
    if scenario is None:
        lines = ["agent=ppo", "video=false", f"seed={settings.seed}", f"device={settings.device}"]
        lines += [f"threads={settings.threads}", *([f"run_dir={settings.run_dir}"] if settings.run_dir else [])]
        scenario = compose(settings.world, lines)
        scenario = dataclasses.replace(scenario, name=f"{method}-{scenario.name}", expect={}, overrides=())
    torch.set_num_threads(settings.threads)
    world, config = _world(scenario.world), model_config(settings)
    try:
        examples = LevelExamples(data, settings.validation, settings.seed, device_of(settings.device))
        torch.manual_seed(settings.seed)
        training = LevelTraining(config, level_checks.levels_of(world), settings.seed)
        model = training.model.to(examples.device)
        trainer = PretrainingTrainer(training, model, examples, settings.trainer(), seed=settings.seed)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    return LevelPretraining(method, scenario, trainer, data, world, config)


class LevelPretraining(Pretraining):
    """A pretraining whose result are levels."""

    has_backbone, has_agent = False, False

    def __init__(
        self,
        method: str,
        scenario: Scenario,
        trainer: PretrainingTrainer,
        data: LevelSet,
        world: World,
        config: LevelModelConfig,
    ) -> None:
        super().__init__(method, scenario, trainer, data, None)
        self.levels, self.world, self.config = data, world, config

    def first_line(self) -> str:
        """Return what is trained, and on which data."""
        train, validation = self.trainer.examples.episodes
        return f"levels of {self.world.name} from {self.levels.source}: {train} levels, {validation} to validate with"

    def sample(self) -> Array:
        """Return the levels that the trained model makes, u1 [samples, H * W]."""
        network, config = self.trainer.finished_model().policy, self.config
        generator = np.random.default_rng((self.trainer.seed, GeneratorStream.LEVEL_SAMPLING))
        seed, device = int(generator.integers(2**62)), torch.device(self.trainer.examples.device)
        grids = sample_grids(
            network.to(device), config.samples, temperature=config.temperature, seed=seed, device=device
        )
        return grids.numpy().astype(np.uint8)

    def finish(self, run: Run, interrupts: Interrupts) -> PretrainResult:
        """Make levels, let the expert play them, and write those that it solves."""
        trainer = self.trainer
        with interrupts.abort_after(0.0):
            made = level_checks.examine(self.world, self.levels.grids, self.sample())
            sha256 = self._write(run.path, made)
        spent = (trainer.epoch, trainer.updates, self.seconds)
        return PretrainResult(
            run, self.method, sha256, *spent, trainer.best_scores, trainer.score_split, None, False, made.figures
        )

    def _write(self, run: Path, made: level_checks.ExaminedLevels) -> str:
        """Write the levels with their card and their picture, and return the SHA-256 of the file of levels."""
        folder, most = run / FOLDER, self.world.Params.dtype[GRIDS].shape[0]
        folder.mkdir(exist_ok=True)
        level_files.write(folder / TRAINING, self.world, self.levels.grids)
        level_files.write(folder / PLAYABLE, self.world, made.grids[:most])
        sha256 = hashlib.sha256((folder / PLAYABLE).read_bytes()).hexdigest()
        card = {
            "method": self.method,
            "world": self.world.name,
            "data": {"source": self.levels.source, "sha256": self.levels.content_hash},
            "spent": {"epochs": self.trainer.epoch, "updates": self.trainer.updates},
            "settings": {
                **{key: getattr(self.trainer.config, key) for key in TRAINER_KEYS},
                **dataclasses.asdict(self.config),
                "seed": self.trainer.seed,
            },
            "scores": self.trainer.best_scores,
            "levels": made.figures,
            "sha256": sha256,
        }
        atomic_write_bytes(folder / CARD, (json.dumps(card, indent=2) + "\n").encode())
        rows = {"learned from": self.levels.grids[:10], "made": made.grids[:30], "not solved": made.failures[:10]}
        pictures = {title: self._pictures(grids) for title, grids in rows.items() if len(grids)}
        observation_sheet.write_pictures(run / PICTURE, pictures)
        return sha256

    def _pictures(self, grids: Array) -> list[Array]:
        batch, side = level_checks.batch_of(self.world, grids), observation_sheet.SIDE
        return [picture(batch, i, size=(side, side)) for i in range(len(grids))]
