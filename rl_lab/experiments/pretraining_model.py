"""The network with which the pretraining of a backbone begins: a new one, or that of an existing backbone."""

from __future__ import annotations

import dataclasses

import torch

from rl_lab.adapters import make
from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import EnvSpec
from rl_lab.datasets.dataset import Dataset
from rl_lab.experiments.backbone_config import find_backbone
from rl_lab.experiments.pretraining_config import PretrainSettings
from rl_lab.experiments.scenario import Scenario
from rl_lab.learners.pretraining import methods, networks
from rl_lab.learners.pretraining.contract import contract_of, require_same
from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.spec import BackboneSpec, NetworkChoice, action_contract


def initial_model(
    method: str, settings: PretrainSettings, scenario: Scenario, data: Dataset
) -> tuple[BackboneModel, SavedBackbone | None]:
    """Return the network with a head for the method, and the backbone that it began with, None for a new one.

    Raises UsageError or ValueError where method, settings, backbone, data and world do not go together.
    """
    envs = make.make(scenario.world, 1, scenario.params)
    world = envs.world
    envs.close()
    data.require_world(world)
    head, observation_contract = methods.HEADS[method], contract_of(world.observation)
    if settings.backbone in networks.names() or networks.is_code(settings.backbone):
        return _new_model(head, settings, scenario, world), None
    initial_backbone = find_backbone(settings.backbone)
    if settings.network or settings.net_arch:
        raise UsageError(f"{settings.backbone} has its own layers: leave backbone.KEY and net_arch out")
    require_same(initial_backbone.spec.observation, observation_contract, f"backbone {settings.backbone}", world.name)
    if head is None:
        return _model_of_trunk(initial_backbone), initial_backbone
    return _model_with_head(method, head, settings, initial_backbone, world), initial_backbone


def _new_model(head: str | None, settings: PretrainSettings, scenario: Scenario, world: EnvSpec) -> BackboneModel:
    """Return a new network with random parameters."""
    network = _new_network(settings, scenario)
    action = action_contract(world.action) if head == "policy" else None
    heads: tuple[str, ...] = () if head is None else (head,)
    layers = tuple(settings.net_arch)
    spec = BackboneSpec(network, contract_of(world.observation), action, heads, layers, settings.activation)
    return BackboneModel(spec)


def _model_of_trunk(initial_backbone: SavedBackbone) -> BackboneModel:
    """Return the trunk of a backbone without its heads, which do not fit a trunk that is trained further."""
    model = BackboneModel(dataclasses.replace(initial_backbone.spec, action=None, heads=()))
    model.trunk.load_state_dict(initial_backbone.part("trunk"))
    return model


def _model_with_head(
    method: str, head: str, settings: PretrainSettings, initial_backbone: SavedBackbone, world: EnvSpec
) -> BackboneModel:
    """Return the network of a backbone, to which the head is added if it has none; `critic` begins with a new one."""
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
    return model


def _new_network(settings: PretrainSettings, scenario: Scenario) -> NetworkChoice:
    """Return the network of a new backbone.

    A module of the user may run: its name was given on this command line. In a resumed run, only a trusted file may.
    """
    if scenario.backbone is not None:  # the pretraining is resumed
        return scenario.backbone.backbone_spec().network
    if networks.is_code(settings.backbone):
        return networks.network_of_code(settings.backbone, settings.network)
    return networks.network_of(settings.backbone, settings.network)
