"""A backbone with the heads that were trained on its features: a policy, and a value function."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from rl_lab.core.untrusted import listed, of_kind, whole
from rl_lab.core.world import Array
from rl_lab.learners.pretraining import networks
from rl_lab.learners.pretraining.contract import ObservationContract, read_contract
from rl_lab.learners.pretraining.networks import Network, read_network

PARTS = ("trunk", "policy", "value")
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


@dataclass(frozen=True)
class ActionContract:
    """The actions of a policy head: `size` discrete ones, or vectors of `size` components with a Gaussian policy."""

    kind: str  # discrete or continuous
    size: int

    def __str__(self) -> str:
        return f"{self.size} actions" if self.kind == "discrete" else f"vectors of {self.size} components"


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is, without its parameters: its network, its observations and actions, and its heads."""

    network: Network
    observation: ObservationContract
    action: ActionContract | None = None  # None without a policy head
    heads: tuple[str, ...] = ()  # of policy and value
    net_arch: tuple[int, ...] = ()  # hidden layers of each head
    activation: str = "tanh"  # of those layers

    def as_json(self) -> dict[str, Any]:
        """Return the specification as data for JSON."""
        return {
            "network": self.network.as_json(),
            "observation": self.observation.as_json(),
            "action": None if self.action is None else dataclasses.asdict(self.action),
            "heads": list(self.heads),
            "net_arch": list(self.net_arch),
            "activation": self.activation,
        }


def read_spec(node: Any) -> BackboneSpec:
    """Return the specification of data from a file. Raises ValueError or KeyError where it is none."""
    node = of_kind(node, "it", dict)
    action = node["action"]
    if action is not None:
        action = of_kind(action, "action", dict)
        action = ActionContract(of_kind(action["kind"], "kind", str), whole(action["size"], "action: size", 1, 2**16))
        if action.kind not in ("discrete", "continuous"):
            raise ValueError(f"action: kind is {action.kind!r:.40}; expected discrete or continuous")
    heads = tuple(of_kind(head, "heads", str) for head in listed(node["heads"], "heads"))
    if heads not in ((), ("policy",), ("value",), ("policy", "value")) or ("policy" in heads) != (action is not None):
        raise ValueError(
            f"heads are {list(heads)!r:.60}; expected policy, value, both or none, and actions of a policy"
        )
    arch = tuple(whole(units, "net_arch", 1, 2**14) for units in listed(node["net_arch"], "net_arch"))
    activation = of_kind(node["activation"], "activation", str)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r:.40}; expected one of {', '.join(ACTIVATIONS)}")
    return BackboneSpec(
        read_network(node["network"]), read_contract(node["observation"]), action, heads, arch, activation
    )


def action_contract(space: Discrete[Any] | Box) -> ActionContract:
    """Return the contract of a world's actions. Raises ValueError for actions that no policy head has."""
    if isinstance(space, Discrete):
        return ActionContract("discrete", int(space.n))
    if len(space.shape or ()) != 1:
        raise ValueError(f"a policy head needs discrete actions, or vectors, not {space}")
    return ActionContract("continuous", int(space.shape[0]))


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
    """Return the SHA-256 of tensors: of their names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value)
        digest.update(f"{name}\0{array.dtype}\0{list(array.shape)}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
