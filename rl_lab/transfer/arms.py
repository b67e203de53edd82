"""The arms of a comparison: which backbone each training begins with, and the controls' backbones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array
from rl_lab.datasets.dataset import Dataset, open_dataset
from rl_lab.experiments.backbone_config import find_backbone
from rl_lab.experiments.compose import compose
from rl_lab.experiments.pretraining_config import as_settings
from rl_lab.experiments.scenario import Scenario
from rl_lab.learners.pretraining import folder
from rl_lab.learners.pretraining.examples import Examples
from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.spec import ActionContract, action_contract
from rl_lab.learners.pretraining.trainer import PretrainingTrainer, TrainerConfig
from rl_lab.transfer.settings import TransferSettings

SCRATCH, BACKBONE, RANDOM, SHUFFLED, CLONING = "scratch", "backbone", "random_frozen", "shuffled", "cloning"
_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class Arm:
    """One way to train. `scenarios` has one for each seed, in order."""

    name: str
    label: str
    scenarios: list[Scenario]


def make_arms(settings: TransferSettings, saved: SavedBackbone) -> list[Arm]:
    """Return the arms that train; the backbones of controls are written to backbones/ in the report's folder.

    Raises UsageError where scenario, backbone and data do not go together.
    """
    backbones = settings.out / "backbones"
    mode = next((line.partition("=")[2] for line in settings.handoff if line.startswith("mode=")), "finetune")
    begin = [f"backbone={saved.path}", *settings.handoff]
    arms = [_arm(settings, SCRATCH, "from scratch", lambda seed: [])]
    arms.append(_arm(settings, BACKBONE, f"backbone ({mode})", lambda seed: begin))
    if not settings.controls:
        return arms
    for seed in range(settings.seeds):
        _write_random(backbones / f"random-s{seed}", saved, seed)
    arms.append(
        _arm(
            settings,
            RANDOM,
            "random frozen trunk",
            # It is what mode=frozen would learn, in a fraction of the time: no update computes the trunk again.
            lambda seed: [f"backbone={backbones / f'random-s{seed}'}", "mode=encoded"],
        )
    )
    if settings.data:
        _write_shuffled(backbones / "shuffled", saved, Path(settings.data), arms[0].scenarios[0])
        # It was cloned, so it has no value head, whatever the backbone itself hands over.
        handoff = [line for line in settings.handoff if not line.startswith("parts=")]
        lines = [f"backbone={backbones / 'shuffled'}", *handoff]
        arms.append(_arm(settings, SHUFFLED, "shuffled actions", lambda seed: lines))
    return arms


def own_policy_scenario(saved: SavedBackbone, scenario: Scenario) -> Scenario | None:
    """Return a scenario whose agent, before it is trained, acts as the backbone's own policy does; None without one."""
    if "policy" not in saved.spec.heads:
        return None
    lines = ["agent=ppo", "video=false", f"backbone={saved.path}", "mode=finetune"]
    own = compose(scenario.world, lines)
    return dataclasses.replace(own, params=scenario.params, evaluation=scenario.evaluation, device=scenario.device)


def load_backbone(settings: TransferSettings) -> SavedBackbone:
    """Return the backbone that is measured. Raises UsageError as `find_backbone`."""
    return find_backbone(settings.backbone)


def _arm(settings: TransferSettings, name: str, label: str, lines: Callable[[int], list[str]]) -> Arm:
    """Return an arm; `lines` are the overrides of a seed's training."""
    scenarios = []
    for seed in range(settings.seeds):
        run = settings.out / "runs" / f"{name}-s{seed}"
        scenario = compose(settings.target, [*settings.overrides, *lines(seed), f"seed={seed}", f"run_dir={run}"])
        scenarios.append(dataclasses.replace(scenario, overrides=()))
    return Arm(name, label, scenarios)


def _write_random(path: Path, saved: SavedBackbone, seed: int) -> None:
    """Write a backbone of the same kind with new weights and no head, unless it is there already."""
    if path.exists():
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BackboneModel(dataclasses.replace(saved.spec, action=None, heads=()))
    folder.save(path, model, {"method": "none", "seed": seed})


def _write_shuffled(path: Path, saved: SavedBackbone, data_path: Path, scenario: Scenario) -> None:
    """Write a backbone of the same kind that has cloned shuffled actions, unless it is there already."""
    data = open_dataset(data_path)
    config = _trainer_config(saved)
    if path.exists():
        card = folder.load(path).card
        if card.get("data_sha256") != data.content_hash:
            raise UsageError(f"{path} was made from other data than {data_path}: choose another out=DIR")
        if card.get("settings") != dataclasses.asdict(config):
            raise UsageError(f"{path} was made with other settings than {saved.path}: choose another out=DIR")
        return
    world = _require_world(data, scenario)
    symmetries = getattr(world, "symmetries", ()) if config.symmetries else ()
    action: ActionContract = action_contract(data.action_space)
    shuffled = dataclasses.replace(data, actions=shuffled_actions(data))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SHUFFLE_SEED)
        model = BackboneModel(dataclasses.replace(saved.spec, action=action, heads=("policy",)))
        try:
            examples = Examples(shuffled, config.validation, _SHUFFLE_SEED, "cpu", symmetries)
            trainer = PretrainingTrainer("bc", model, examples, config, seed=_SHUFFLE_SEED)
        except ValueError as error:
            raise UsageError(str(error)) from None
        while not trainer.is_done:
            trainer.train_epoch()
    card = {"method": "bc", "shuffled": True, "data_sha256": data.content_hash, "scores": trainer.best_scores}
    card["settings"] = dataclasses.asdict(config)
    folder.save(path, trainer.finished_model(), card)


def _trainer_config(saved: SavedBackbone) -> TrainerConfig:
    """Return the hyperparameters with which a backbone was pretrained, but for a trunk that was not trained.

    Raises UsageError where its card has values of other types.
    """
    settings = saved.card.get("settings")
    names = {each.name for each in dataclasses.fields(TrainerConfig)} - {"freeze_trunk"}
    node = {key: value for key, value in settings.items() if key in names} if isinstance(settings, dict) else {}
    return as_settings(TrainerConfig, node)


def _require_world(data: Dataset, scenario: Scenario) -> EnvSpec:
    """Return the world of a scenario. Raises UsageError where the data are of another one."""
    from rl_lab.adapters import make

    envs = make.make(scenario.world, 1, scenario.params)
    world = envs.world
    envs.close()
    data.require_world(world)
    return world


def shuffled_actions(data: Dataset) -> Array:
    """Return the actions in a random order; where there are action masks, among transitions with equal masks only."""
    rng = np.random.default_rng(_SHUFFLE_SEED)
    actions = np.array(data.actions)
    if data.action_masks is None:
        return np.asarray(rng.permutation(actions))
    _, groups = np.unique(np.asarray(data.action_masks), axis=0, return_inverse=True)
    order = np.argsort(groups.reshape(-1), kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(groups.reshape(-1)))[:-1]):
        actions[rows] = actions[rng.permutation(rows)]
    return actions
