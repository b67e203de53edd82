"""A backbone with the heads that were trained on its features: a policy, and a value function."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from rl_lab.core.content_hash import content_hash
from rl_lab.core.world import Array
from rl_lab.learners.pretraining import networks
from rl_lab.learners.pretraining.spec import BackboneSpec

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


class BackboneModel(nn.Module):
    """The trunk of a backbone and its heads; a Gaussian policy has `log_std`, float32 [size], besides its head.

    Raises ValueError as `networks.build`.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        space = spec.observation.space()
        self.trunk = networks.build(spec.network, space)
        self.width = networks.width_of(self.trunk, space, spec.network.kind)
        if spec.action is not None:
            self.policy = self._head(spec.action.size)
            if spec.action.kind == "continuous":
                self.log_std = nn.Parameter(torch.zeros(spec.action.size))
        if "value" in spec.heads:
            self.value = self._head(1)

    def _head(self, outputs: int) -> nn.Sequential:
        sizes, layers = [self.width, *self.spec.net_arch], []
        for inputs, units in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(inputs, units), ACTIVATIONS[self.spec.activation]()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the features, float32 [B, width], of observations [B, *shape]."""
        features: torch.Tensor = self.trunk(observations)
        return features


def tensor_hash(tensors: Mapping[str, torch.Tensor | Array]) -> str:
    """Return the `content_hash` of the tensors of one network, by name."""
    arrays = {
        name: value.numpy(force=True) if isinstance(value, torch.Tensor) else value for name, value in tensors.items()
    }
    return content_hash({"": arrays})
