"""The backbones of agents/backbones/: each keeps the contract, alone, in a folder and in SB3's policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from support.backbones import learner_of, settings_of, write_backbone
from torch import nn

from rl_lab.learners.pretraining import networks
from rl_lab.learners.pretraining.contract import contract_of, read_contract
from rl_lab.learners.pretraining.model import tensor_hash

BOARD, IMAGE = Box(0, 1, (10, 10, 4), np.uint8), Box(0, 255, (40, 36, 3), np.uint8)
VECTOR = Box(-1.0, 1.0, (12,), np.float32)
CASES: dict[str, tuple[str, Box, dict[str, Any], int]] = {
    "mlp": ("mlp", VECTOR, {}, 64),
    "mlp with LayerNorm": ("mlp", VECTOR, {"layer_norm": True, "activation": "silu", "hidden": [16, 8]}, 8),
    "mlp of a board": ("mlp", BOARD, {}, 64),
    "minatar": ("cnn", BOARD, {}, 128),
    "board without channels": ("cnn", Box(0.0, 1.0, (10, 5), np.float32), {"features": 32}, 32),
    "nature": ("cnn", IMAGE, {}, 512),
    "channels first": ("cnn", Box(0, 255, (3, 40, 36), np.uint8), {}, 512),
    "cells": ("attention", BOARD, {}, 64),
    "cells with channels first": ("attention", Box(0, 1, (4, 10, 10), np.uint8), {"width": 32, "layers": 1}, 32),
    "entities": ("attention", VECTOR, {"entity_size": 3, "width": 16, "heads": 2}, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_a_backbone_keeps_the_contract(name: str) -> None:
    kind, space, config, width = CASES[name]
    torch.manual_seed(0)
    module = networks.build(networks.network_of(kind, config), space)
    space.seed(1)
    observations = torch.from_numpy(np.stack([space.sample() for _ in range(5)]))
    with torch.no_grad():
        features = module(observations)
        assert features.shape == (5, width) and features.dtype == torch.float32
        assert torch.allclose(module(observations.float()), features)  # SB3 hands over floats
        assert torch.allclose(module(observations[:2]), features[:2], atol=1e-5)  # no row depends on another
        module.eval()
        assert torch.allclose(module(observations), features, atol=1e-5)
    assert features.std(dim=0).max() > 1e-4  # they depend on the observation
    module.train()
    module(observations).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(("kind", "config"), [("cnn", {}), ("attention", {"width": 16, "layers": 1}), ("mlp", {})])
@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_policies_on_boards_have_the_features(tmp_path: Path, kind: str, config: dict[str, Any], agent: str) -> None:
    model = write_backbone(tmp_path / "b", world="breakout", kind=kind, heads=(), **config)
    learner = learner_of(settings_of(tmp_path / "b"), world="breakout", agent=agent)
    policy = learner.model.policy if agent == "ppo" else learner.model.policy.q_net
    observations = np.random.default_rng(0).integers(0, 2, (6, 10, 10, 4), np.uint8)
    with torch.no_grad():
        features = policy.extract_features(torch.from_numpy(observations), policy.features_extractor)
        assert torch.allclose(features, model(torch.from_numpy(observations)), atol=1e-5)


def test_compiled_code_learns_minatars_network(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b", world="breakout", kind="cnn", heads=("policy",))
    learner = learner_of(settings_of(tmp_path / "b"), world="breakout", compiled=True)
    assert learner.backend.startswith("compiled; backbone: cnn ")
    agent = learner.agent()
    observations = np.random.default_rng(0).integers(0, 2, (64, 10, 10, 4), np.uint8)
    greedy = agent.policy.predict(observations, deterministic=True)[0]
    assert (agent.act(observations)[0] == greedy).mean() > 0.95  # rounding may decide between equal actions
    before = tensor_hash(learner.model.policy.features_extractor.state_dict())
    learner.train_iteration()
    assert tensor_hash(learner.model.policy.features_extractor.state_dict()) != before


@pytest.mark.parametrize(
    ("kind", "space", "config", "expected"),
    [
        ("mpl", VECTOR, {}, "did you mean 'mlp'?"),
        ("mlp", VECTOR, {"hidden": []}, "expected 1 to 64 layers of 1 to"),
        ("mlp", VECTOR, {"activation": "tan"}, "did you mean 'tanh'?"),
        ("mlp", VECTOR, {"hidden": "many"}, "backbone mlp:"),
        ("cnn", VECTOR, {}, "are no boards or images: use mlp"),
        ("cnn", BOARD, {"size": "nature"}, "too small for size=nature"),
        ("attention", VECTOR, {"entity_size": 5}, "makes no tokens of 5 numbers"),
        ("attention", VECTOR, {"heads": 3}, "heads=3 does not divide width=64"),
        ("attention", VECTOR, {"layers": 0}, "layers=0: expected 1 to 32"),
    ],
    ids=str,
)
def test_wrong_hyperparameters_are_one_line(kind: str, space: Box, config: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        networks.build(networks.network_of(kind, config), space)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


class _Wrong(nn.Module):
    def __init__(self, part: nn.Module | None = None, shape: tuple[int, ...] = (3,)) -> None:
        super().__init__()
        self.part, self.shape = part, shape

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations.new_zeros(len(observations), *self.shape)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (_Wrong(nn.BatchNorm1d(3)), "has a BatchNorm1d: use LayerNorm"),
        (_Wrong(nn.Dropout(0.1)), "has a Dropout"),
        (_Wrong(shape=(3, 3)), r"returns \[2, 3, 3\] for 2 observations"),
    ],
    ids=["BatchNorm", "dropout", "shape"],
)
def test_modules_that_break_the_contract_are_refused(module: nn.Module, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        networks.width_of(module, VECTOR, "mine")


def test_a_contract_is_read_as_it_was_written() -> None:
    for space in (BOARD, IMAGE, VECTOR, Box(-np.inf, np.inf, (4,), np.float32)):
        contract = contract_of(space)
        assert read_contract(contract.as_json()) == contract and contract_of(contract.space()) == contract
