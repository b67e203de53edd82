"""The train batch of fragments beside RLlib's own, which it makes of episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

pytest.importorskip("ray.rllib", reason="needs the extra rllib")

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.learner import AddOneTsToEpisodesAndTruncate, GeneralAdvantageEstimation
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module import MultiRLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from support.fragments import ACTIONS, SIZE, episodes_of, random_fragment

from rl_lab.learners.rllib.connector import FragmentsToBatch
from rl_lab.learners.rllib.module import LabActorCritic

GAMMA, LAMBDA = 0.97, 0.9


class Actor(torch.nn.Module):
    """A policy of two layers with the members that the module uses."""

    def __init__(self) -> None:
        super().__init__()
        self.action_net, self.value_net = torch.nn.Linear(SIZE, ACTIONS), torch.nn.Linear(SIZE, 1)

    def extract_features(self, observations: torch.Tensor) -> torch.Tensor:
        return observations.float()

    def mlp_extractor(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return features, torch.tanh(features)


@pytest.fixture(scope="module")
def module() -> MultiRLModule:
    torch.manual_seed(0)
    space = Box(-np.inf, np.inf, (SIZE,), np.float32)
    inner = LabActorCritic(observation_space=space, action_space=Discrete(ACTIONS), model_config={"build": Actor})
    made = MultiRLModule()
    made.add_module(DEFAULT_MODULE_ID, inner)
    return made


def of_rllib(module: MultiRLModule, episodes: list[SingleAgentEpisode]) -> dict[str, Any]:
    config = PPOConfig().environment(
        observation_space=Box(-np.inf, np.inf, (SIZE,), np.float32), action_space=Discrete(ACTIONS)
    )
    pipeline = config.build_learner_connector(None, None, device="cpu")
    pipeline.prepend(AddOneTsToEpisodesAndTruncate())
    pipeline.append(GeneralAdvantageEstimation(gamma=GAMMA, lambda_=LAMBDA))
    made = pipeline(rl_module=module, batch={}, episodes=episodes, shared_data={}, explore=False, metrics=None)
    batch: dict[str, Any] = made[DEFAULT_MODULE_ID]
    return batch


@pytest.mark.parametrize("ends", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_columns_equal_rllibs(module: MultiRLModule, seed: int, ends: float) -> None:
    """Rows, flags, bootstrap values, advantages and targets are equal bit for bit."""
    fragment = random_fragment(seed, ends)
    expected = of_rllib(module, episodes_of(fragment))
    connector = FragmentsToBatch(GAMMA, LAMBDA)
    got = connector(rl_module=module, batch={}, episodes=[fragment])[DEFAULT_MODULE_ID]
    names = "obs actions action_logp action_dist_inputs rewards terminateds truncateds loss_mask advantages"
    for name in [*names.split(), "value_targets"]:
        assert np.array_equal(got[name].numpy(), np.asarray(expected[name])), name
