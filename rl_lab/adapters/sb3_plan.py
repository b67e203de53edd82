"""Stable-Baselines3's networks as the compiled learners know them, and the tensors that both share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from ..fast import kernels
from ..fast.plan import AT_BACKWARD, AT_FORWARD, AT_TURN, LINEAR, RELU, SHARDS, TANH, Network, Plan
from ..world import Array
from .sb3_policy import BoardCnn

WIDEST = 1024  # units of a layer: beyond it, torch's matrix products are as good
_ACTIVATIONS = {nn.Tanh: TANH, nn.ReLU: RELU}


class StockError(Exception):
    """Why compiled code cannot stand in for Stable-Baselines3's own."""


class Shared:
    """A network whose parameters and Adam moments are a policy's tensors.

    They are read before compiled code works on its copies, and written back after; moments, if anybody changed them.
    """

    def __init__(
        self, network: Network, tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer | None
    ) -> None:
        self.network, self.names, self.optimizer = network, list(tensors), optimizer
        self.tensors = list(tensors.values())
        for tensor in self.tensors:
            if tensor.dtype != torch.float32 or not tensor.is_contiguous() or tensor.device.type != "cpu":
                raise StockError("its parameters are not contiguous float32 on the CPU")
            if optimizer is not None and not tensor.requires_grad:
                raise StockError("some of its parameters are frozen")
        self.moments = [np.zeros_like(network.weights) for _ in range(2)]
        self._known: list[tuple[torch.Tensor, int]] = []

    def _exchange(self, tensors: list[torch.Tensor], flat: Array, out: bool = False) -> None:
        addresses, network = np.array([tensor.data_ptr() for tensor in tensors], np.int64), self.network
        kernels.tensors().exchange(addresses, network.bounds, network.lines, network.places, flat, out)

    def _states(self) -> list[dict[str, Any]]:
        assert self.optimizer is not None
        for tensor in self.tensors:
            state = self.optimizer.state[tensor]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(tensor), torch.zeros_like(tensor)
        return [self.optimizer.state[tensor] for tensor in self.tensors]

    def tables(self) -> Array:
        """Return the network's tables, with the addresses of functions that are compiled when somebody asks."""
        tables = self.network.tables
        if not tables[0, AT_FORWARD]:
            tables[:, [AT_FORWARD, AT_BACKWARD, AT_TURN]] = kernels.network()
        return tables

    def read(self) -> None:
        """Take up what the tensors hold: parameters always, for no tensor counts what is written to its `data`."""
        self._exchange(self.tensors, self.network.weights)
        states = self._states() if self.optimizer is not None else []
        now = [s[key] for s in states for key in ("exp_avg", "exp_avg_sq")]
        if len(now) == len(self._known) and all(
            a is b and a._version == version for a, (b, version) in zip(now, self._known, strict=True)
        ):
            return
        for key, flat in zip(("exp_avg", "exp_avg_sq"), self.moments, strict=True):
            self._exchange([s[key] for s in states], flat)
        self._known = [(tensor, tensor._version) for tensor in now]

    def forget(self) -> None:
        """Take up the moments at the next `read`, whatever happened to the copies."""
        self._known = []

    @property
    def taken(self) -> int:
        """Steps that Adam has taken."""
        return int(self._states()[0]["step"])

    def push(self) -> None:
        """Give the tensors what compiled code has made of them."""
        self._exchange(self.tensors, self.network.weights, out=True)

    def unsound(self) -> str:
        """Return the name of the first tensor whose gradient is not finite, if it is one."""
        network = self.network
        for name, low, high in zip(self.names, network.bounds, network.bounds[1:], strict=False):
            if not np.isfinite(network.slopes[0, network.places[low:high]]).all():
                return name
        return "the loss"

    def write(self, taken: int) -> None:
        """Give the tensors and their moments what compiled code has made of them, after so many steps of Adam."""
        self.push()
        states = self._states()
        for key, flat in zip(("exp_avg", "exp_avg_sq"), self.moments, strict=True):
            self._exchange([s[key] for s in states], flat, out=True)
        with torch.no_grad():
            for state in states:
                state["step"].fill_(taken)


def adam_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the settings of a plain Adam over one group of parameters. Raises StockError for any other optimizer."""
    group = optimizer.param_groups[0]
    plain = type(optimizer) is torch.optim.Adam and len(optimizer.param_groups) == 1
    if not plain or group["weight_decay"] or group["amsgrad"] or group["maximize"]:
        raise StockError(f"its optimizer is {type(optimizer).__name__} with options of its own")
    return dict(group)


def actor_critic(policy: Any, threads: int = 1) -> tuple[Network, dict[str, torch.Tensor], Array]:
    """Return the network, its tensors, and where its outputs are: buffers of logits and values, place of log_std or -1.

    `threads` may work on it at once, and learn from parts of a minibatch.

    Raises StockError where the policy is not one of those that compiled code knows.
    """
    if type(policy) not in (ActorCriticPolicy, MaskableActorCriticPolicy):
        raise StockError(f"its policy is a {type(policy).__name__}")
    if getattr(policy, "use_sde", False) or getattr(policy, "squash_output", False):
        raise StockError("it explores by state-dependent noise, or squashes its actions")
    if not isinstance(policy.action_space, Discrete | Box):
        raise StockError(f"its actions are {policy.action_space}")
    if isinstance(policy.action_space, Box) and len(policy.action_space.shape) != 1:
        raise StockError(f"its actions have the shape {policy.action_space.shape}")
    if policy.features_extractor is not policy.vf_features_extractor:
        raise StockError("its policy and its values see through different extractors")
    _whole(policy)
    plan = Plan(int(np.prod(policy.observation_space.shape)))
    names: list[str] = []
    if hasattr(policy, "log_std"):
        spread = plan.vector(len(policy.log_std))
        names.append("log_std")
    features, order = _features(plan, policy.features_extractor, "features_extractor", names)
    ends = [
        _layers(plan, stem, f"mlp_extractor.{key}", features, order, names)
        for key, stem in (
            ("policy_net", policy.mlp_extractor.policy_net),
            ("value_net", policy.mlp_extractor.value_net),
        )
    ]
    heads = [
        _linear(plan, head, key, end, order if end == features else None, LINEAR, names)
        for key, head, end in (("action_net", policy.action_net, ends[0]), ("value_net", policy.value_net, ends[1]))
    ]
    network, tensors = _assembled(plan, names, policy, threads, SHARDS)
    return network, tensors, np.array([*heads, spread if hasattr(policy, "log_std") else -1], np.int64)


def q_network(network: Any) -> tuple[Network, dict[str, torch.Tensor], int]:
    """Return a QNetwork's, and the buffer of its values. Raises StockError as `actor_critic` does."""
    _whole(network)
    plan = Plan(int(np.prod(network.observation_space.shape)))
    names: list[str] = []
    features, order = _features(plan, network.features_extractor, "features_extractor", names)
    values = _layers(plan, network.q_net, "q_net", features, order, names)
    made, tensors = _assembled(plan, names, network)
    return made, tensors, values


def _whole(policy: Any) -> None:
    if policy.normalize_images and is_image_space(policy.observation_space):
        raise StockError("its observations are images, which the library scales")


def _assembled(
    plan: Plan, names: list[str], module: nn.Module, threads: int = 1, shards: int = 1
) -> tuple[Network, dict[str, torch.Tensor]]:
    own = dict(module.named_parameters())
    if sorted(own) != sorted(names):
        raise StockError("its network has parameters of its own")
    for name, places in zip(names, plan.parameters, strict=True):
        if own[name].numel() != places.size:
            raise StockError(f"its {name} has another size")
    return Network(plan, threads, shards), {name: own[name] for name in names}


def _features(plan: Plan, extractor: Any, name: str, names: list[str]) -> tuple[int, Array | None]:
    if type(extractor) is FlattenExtractor:
        return 0, None
    if type(extractor) is not BoardCnn:
        raise StockError(f"its features are a {type(extractor).__name__}'s")
    shape = tuple(extractor._observation_space.shape or ())
    rows, side, depth = (*shape, 1) if extractor.add_channel else shape
    convolution: Any = extractor.convolution[0]
    if len(extractor.convolution) != 3 or not (extractor.channels_last or extractor.add_channel):
        raise StockError("its convolution is not MinAtar's, or its boards have their channels first")
    if convolution.kernel_size != (3, 3) or convolution.stride != (1, 1) or convolution.out_channels != 16:
        raise StockError("its convolution is not MinAtar's")
    names += [f"{name}.convolution.0.weight", f"{name}.convolution.0.bias"]
    first: Any = extractor.dense[0]
    board, order = plan.convolution(rows, side, depth, RELU)
    return _linear(plan, first, f"{name}.dense.0", board, order, RELU, names), None


def _layers(plan: Plan, stem: nn.Sequential, name: str, source: int, order: Array | None, names: list[str]) -> int:
    modules = list(stem)
    for k, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            follower = modules[k + 1] if k + 1 < len(modules) else None
            if follower is not None and type(follower) not in _ACTIVATIONS:
                raise StockError(f"its activation is {type(follower).__name__}")
            bend = LINEAR if follower is None else _ACTIVATIONS[type(follower)]
            source = _linear(plan, module, f"{name}.{k}", source, order, bend, names)
            order = None
        elif type(module) not in _ACTIVATIONS:
            raise StockError(f"its network has a {type(module).__name__}")
    return source


def _linear(
    plan: Plan, module: nn.Linear, name: str, source: int, order: Array | None, activation: int, names: list[str]
) -> int:
    if module.out_features > WIDEST or module.bias is None:
        raise StockError(f"its {name} has {module.out_features} units, or no bias; torch serves large networks better")
    names += [f"{name}.weight", f"{name}.bias"]
    return plan.dense(source, module.out_features, activation, order)
