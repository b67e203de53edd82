"""What a backbone is, without its parameters. This module does without torch, so that scenarios are read quickly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gymnasium.spaces import Box, Discrete

from rl_lab.core.untrusted import checked_int, checked_list, checked_type
from rl_lab.learners.pretraining.contract import ObservationContract, read_contract

PARTS = ("trunk", "policy", "value")
MOST_LAYERS = 64  # of a head
ACTIVATION_NAMES = ("tanh", "relu", "elu", "silu")


@dataclass(frozen=True)
class NetworkChoice:
    """The module of a backbone, named by plain data.

    `kind` is a name in agents/backbones/, or FILE.py:CLASS for a user's own module. `config` are the values of its
    Config, or the keyword arguments of the user's class. `code` is what is recorded of the user's file.
    """

    kind: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    code: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the network as data for JSON."""
        node = dataclasses.asdict(self)
        return node if self.code is not None else {key: value for key, value in node.items() if key != "code"}


def read_network(node: Any) -> NetworkChoice:
    """Return the network of data from a file. Raises ValueError or KeyError where it is none."""
    node = checked_type(node, "network", dict)
    kind, config = (
        checked_type(node["kind"], "network: kind", str),
        checked_type(node["config"], "network: config", dict),
    )
    return NetworkChoice(kind, config, checked_type(node["code"], "network: code", dict) if "code" in node else None)


@dataclass(frozen=True)
class ActionContract:
    """The actions of a policy head: `size` discrete ones, or vectors of `size` components with a Gaussian policy."""

    kind: str  # discrete or continuous
    size: int

    def __str__(self) -> str:
        return f"{self.size} actions" if self.kind == "discrete" else f"vectors of {self.size} components"


@dataclass(frozen=True)
class BackboneSpec:
    """A description of a backbone without its parameters: its network, its observations and actions, and its heads."""

    network: NetworkChoice
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
    node = checked_type(node, "it", dict)
    action = node["action"]
    if action is not None:
        action = checked_type(action, "action", dict)
        action = ActionContract(
            checked_type(action["kind"], "kind", str), checked_int(action["size"], "action: size", 1, 2**16)
        )
        if action.kind not in ("discrete", "continuous"):
            raise ValueError(f"action: kind is {action.kind!r:.40}; expected discrete or continuous")
    heads = tuple(checked_type(head, "heads", str) for head in checked_list(node["heads"], "heads"))
    if heads not in ((), ("policy",), ("value",), ("policy", "value")) or ("policy" in heads) != (action is not None):
        raise ValueError(
            f"heads are {list(heads)!r:.60}; expected policy, value, both or none, and actions of a policy"
        )
    arch = tuple(checked_int(units, "net_arch", 1, 2**14) for units in checked_list(node["net_arch"], "net_arch"))
    if len(arch) > MOST_LAYERS:
        raise ValueError(f"net_arch has {len(arch)} layers; expected {MOST_LAYERS} at most")
    activation = checked_type(node["activation"], "activation", str)
    if activation not in ACTIVATION_NAMES:
        raise ValueError(f"activation is {activation!r:.40}; expected one of {', '.join(ACTIVATION_NAMES)}")
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
