"""Arguments of policies that PPO and DQN share, the features extractor for small boards, and untrained policies.

`agents/*.py` call `policy_arguments` before training and `build_policy` to load an agent.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box, Dict
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy, MaskableMultiInputActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import DQNPolicy, MultiInputPolicy
from torch import nn

from rl_lab.adapters.sb3_vec_env import with_indicator
from rl_lab.adapters.structured import normalized_space, policy_space, structure_of
from rl_lab.core.protocols import EnvSpec

_MULTI_INPUT: dict[type[BasePolicy], type[BasePolicy]] = {
    ActorCriticPolicy: MultiInputActorCriticPolicy,
    MaskableActorCriticPolicy: MaskableMultiInputActorCriticPolicy,
    DQNPolicy: MultiInputPolicy,
}
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}
POLICIES = ("mlp", "cnn")


class BoardCnn(BaseFeaturesExtractor):
    """MinAtar's network: a convolution with 16 filters of 3 x 3, and a dense layer of 128 units.

    Observations have the shape [H, W] or [C, H, W], or [H, W, C] with no more channels than rows. Images with at least
    36 pixels on each side have the convolutions of Mnih et al. 2015 instead.

    Source: Young and Tian 2019, "MinAtar"
    """

    def __init__(self, observation_space: Box, features: int = 128) -> None:
        super().__init__(observation_space, features)
        shape = observation_space.shape
        self.add_channel = len(shape) == 2
        self.channels_last = len(shape) == 3 and shape[2] <= shape[0]
        channels, sides = (1, shape) if self.add_channel else (shape[0], shape[1:])
        if self.channels_last:
            channels, sides = shape[2], shape[:2]
        is_large = min(sides) >= 36  # the smallest images that these convolutions leave anything of
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3), nn.ReLU()]
        if is_large:
            layers = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()]
            layers += [nn.Conv2d(64, 64, 3), nn.ReLU()]
        self.convolution = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            size = self.convolution(self._image(torch.zeros(1, *shape))).shape[1]
        self.dense = nn.Sequential(nn.Linear(size, features), nn.ReLU())

    def _image(self, observations: torch.Tensor) -> torch.Tensor:
        """Return observations as torch's convolutions read them, [B, C, H, W]."""
        if self.add_channel:
            return observations.unsqueeze(1)
        return observations.permute(0, 3, 1, 2) if self.channels_last else observations

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return features, float32 [B, features], of observations [B, *shape]."""
        features: torch.Tensor = self.dense(self.convolution(self._image(observations)))
        return features


def policy_arguments(world: EnvSpec, policy: str, net_arch: list[int], activation: str) -> dict[str, Any]:
    """Return SB3's policy_kwargs for a policy of POLICIES and an activation of ACTIVATIONS.

    Raises ValueError for an unknown policy or activation, for layers of a wrong size, and for a CNN on a vector.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r}: expected one of {', '.join(POLICIES)}")
    if any(type(units) is not int or not 1 <= units <= 2**20 for units in net_arch):
        raise ValueError(f"net_arch={list(net_arch)}: expected layers of 1 to {2**20} units")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    arguments: dict[str, Any] = {"net_arch": list(net_arch), "activation_fn": ACTIVATIONS[activation]}
    if policy == "cnn":
        if (structure := structure_of(world)) is not None:
            raise ValueError(f"policy=cnn: {world.name} observes a {structure.kind}; leave it out: images have a CNN")
        if len(world.observation.shape) not in (2, 3):
            raise ValueError(f"policy=cnn: {world.name} observes a vector of shape {world.observation.shape}")
        arguments["features_extractor_class"] = BoardCnn
    return arguments


def build_policy(
    policy_class: type[BasePolicy],
    world: EnvSpec,
    *,
    indicator: bool = False,
    normalized: bool = False,
    features: Box | None = None,
    **arguments: Any,
) -> BasePolicy:
    """Return an untrained policy of this class, or its class for Dict observations, for the world's spaces.

    Args:
        policy_class: SB3's class of a policy for observations that are no Dict.
        world: the spec of the environments.
        indicator: whether a one-hot agent index is appended to the observations.
        normalized: whether the policy receives the observations from VecNormalize.
        features: the space of the features that an encoder makes of the observations; None without an encoder.
        arguments: what `policy_arguments` returned.
    """
    space: Any = with_indicator(world.observation, len(world.agents)) if indicator else policy_space(world)
    if normalized and not indicator and normalized_space(world.observation) is not world.observation:
        space = normalized_space(world.observation)
    if features is not None:
        space = features
    if isinstance(space, Dict):
        policy_class = _MULTI_INPUT[policy_class]
    return policy_class(space, world.action, lambda _: 0.0, **arguments)
