"""Make backbones (pretrained networks) with random parameters, learners that begin with them, and demonstrations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.datasets.dataset import open_dataset
from rl_lab.learners.pretraining import folder, networks
from rl_lab.learners.pretraining.contract import contract_of
from rl_lab.learners.pretraining.examples import Examples
from rl_lab.learners.pretraining.methods import HEADS
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.settings import BackboneSettings
from rl_lab.learners.pretraining.spec import BackboneSpec, NetworkChoice, action_contract
from rl_lab.learners.pretraining.trainer import PretrainingTrainer, TrainerConfig


def write_backbone(
    path: Path,
    *,
    world: str = "cartpole",
    kind: str = "mlp",
    heads: tuple[str, ...] = ("policy", "value"),
    net_arch: tuple[int, ...] = (),
    **config: Any,
) -> BackboneModel:
    """Write the folder of a backbone with random parameters for a world, and return its module."""
    env = make.make(world, 1)
    action = action_contract(env.world.action) if "policy" in heads else None
    network = networks.network_of(kind, config)
    torch.manual_seed(7)
    model = BackboneModel(BackboneSpec(network, contract_of(env.world.observation), action, heads, net_arch))
    folder.save(path, model, {"method": "none"})
    env.close()
    return model


def settings_of(path: Path, **values: Any) -> BackboneSettings:
    """Return the settings of a scenario that uses this folder."""
    saved = folder.load(path)
    settings = BackboneSettings(str(path), saved.sha256, spec=saved.spec.as_json(), **values)
    settings.check()
    return settings


def learner_of(
    settings: BackboneSettings | None, *, agent: str = "ppo", world: str = "cartpole", seed: int = 3, **config: Any
) -> Any:
    """Return a small learner of SB3's own code on 4 worlds; with `compiled=True` of compiled code where possible."""
    factory = agent_registry.load(agent)
    small = {"n_steps": 16, "batch_size": 32, "n_epochs": 2} if agent == "ppo" else {"learning_starts": 64}
    values = factory.Config(**{"compiled": False, **small, **config})
    assert dataclasses.is_dataclass(values)
    options = {} if settings is None else {"backbone": settings}
    return factory.learner(values, make.make(world, 4, seed=seed), budget=4096, seed=seed, device="cpu", **options)


def write_demonstrations(path: Path, *, episodes: int = 60, length: int = 50, shuffled: bool = False) -> Path:
    """Write a data set with CartPole's spaces, whose actions push to the side to which the pole falls.

    With `shuffled`, the actions are in a random order, and nothing can be learned from the observations.
    """
    metadata = cartpole_metadata()
    columns = random_columns(metadata, [length] * episodes)
    rng = np.random.default_rng(1)
    observations = rng.normal(size=columns.observations.shape).astype(np.float32)
    actions = (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)
    if shuffled:
        rng.shuffle(actions)
    write_data_set(path, metadata, dataclasses.replace(columns, observations=observations, actions=actions))
    return path


def trainer_of(
    path: Path, method: str = "bc", network: NetworkChoice | None = None, **config: Any
) -> PretrainingTrainer:
    """Return a trainer on a data set, of an mlp of 32 features where no other network is given."""
    data = open_dataset(path)
    head = HEADS[method]
    action = action_contract(data.action_space) if head == "policy" else None
    heads = () if head is None else (head,)
    torch.manual_seed(0)
    spec = BackboneSpec(
        network or networks.network_of("mlp", {"hidden": [32]}), contract_of(data.observation_space), action, heads
    )
    values = TrainerConfig(**{"batch_size": 64, "learning_rate": 3e-3, "epochs": 4, "validation": 0.3, **config})
    examples = Examples(data, values.validation, 0, "cpu")
    return PretrainingTrainer(method, BackboneModel(spec), examples, values, seed=5)


def train(trainer: PretrainingTrainer) -> PretrainingTrainer:
    """Train until the trainer is done, and return it."""
    while not trainer.is_done:
        trainer.train_epoch()
    return trainer
