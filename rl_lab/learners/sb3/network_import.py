"""Maps Stable-Baselines3's networks to those of the compiled learners, and copies parameters between the two.

`actor_critic` and `q_network` read the modules of a torch policy and build a `compiled.network.NetworkMemory` of the
same layers, or raise UnsupportedByCompiledError. `ParameterMirror` then copies parameters and Adam's moments: from
torch's tensors into the network before compiled code runs, and back after it. Nothing else writes to the tensors.
"""

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

from rl_lab.core.world import Array
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled import network as network_memory
from rl_lab.learners.compiled.network import (
    AT_BACKWARD,
    AT_FORWARD,
    AT_TRANSPOSE_WEIGHTS,
    LINEAR,
    RELU,
    TANH,
    NetworkMemory,
    NetworkSpec,
)
from rl_lab.learners.compiled.thread_pool import NUM_SHARDS
from rl_lab.learners.sb3.backbone_extractor import BackboneExtractor
from rl_lab.learners.sb3.policies import BoardCnn

MAX_UNITS = 1024  # of a layer; for wider layers, torch's matrix products are as fast
_ACTIVATIONS = {nn.Tanh: TANH, nn.ReLU: RELU}


class UnsupportedByCompiledError(Exception):
    """The configuration needs Stable-Baselines3's own learner; the message says why."""


class ParameterMirror:
    """A compiled network with copies of a policy's parameters and Adam's moments.

    `copy_from_tensors` copies them from the tensors before compiled code uses them; `copy_parameters_to_tensors` and
    `copy_to_tensors` copy them back. Moments are only copied from the tensors where these have changed since.

    `moments` are exp_avg and exp_avg_sq, float32 [P] each, for compiled code. Without an optimizer there are no
    moments.
    """

    def __init__(
        self, network: NetworkMemory, tensors: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer | None
    ) -> None:
        self.network, self.names, self.optimizer = network, list(tensors), optimizer
        self.tensors = list(tensors.values())
        for tensor in self.tensors:
            if tensor.dtype != torch.float32 or not tensor.is_contiguous() or tensor.device.type != "cpu":
                raise UnsupportedByCompiledError("its parameters are not contiguous float32 on the CPU")
            if optimizer is not None and not tensor.requires_grad:
                raise UnsupportedByCompiledError("some of its parameters are frozen")
        self.moments = [network_memory.aligned_zeros(len(network.weights)) for _ in range(2)]
        # The tensors of the moments when they were copied last, with torch's counts of writes to them.
        self._copied_moments: list[tuple[torch.Tensor, int]] = []

    def _copy(self, tensors: list[torch.Tensor], flat: Array, to_tensors: bool = False) -> None:
        """Copy tensors to an array in the layout of the network's parameters, float32 [P], or back."""
        addresses, network = np.array([tensor.data_ptr() for tensor in tensors], np.int64), self.network
        build.param_copy().copy_params(
            addresses, network.param_bounds, network.param_rows, network.param_index, flat, to_tensors
        )

    def _adam_states(self) -> list[dict[str, Any]]:
        """Return the state of Adam for each tensor, which is created if Adam has made no step yet."""
        assert self.optimizer is not None
        for tensor in self.tensors:
            state = self.optimizer.state[tensor]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(tensor), torch.zeros_like(tensor)
        return [self.optimizer.state[tensor] for tensor in self.tensors]

    def tables(self) -> Array:
        """Return the network's tables with the addresses of its functions, which are compiled in the first call."""
        tables = self.network.tables
        if not tables[0, AT_FORWARD]:
            tables[:, [AT_FORWARD, AT_BACKWARD, AT_TRANSPOSE_WEIGHTS]] = build.network_functions()
        return tables

    def copy_from_tensors(self) -> None:
        """Copy the parameters from the tensors, and the moments if they have changed since the last copy.

        Parameters are copied at each call, because torch does not count a write to a tensor's `data`.
        """
        self._copy(self.tensors, self.network.weights)
        states = self._adam_states() if self.optimizer is not None else []
        moments = [s[key] for s in states for key in ("exp_avg", "exp_avg_sq")]
        if len(moments) == len(self._copied_moments) and all(
            a is b and a._version == version for a, (b, version) in zip(moments, self._copied_moments, strict=True)
        ):
            return
        for key, flat in zip(("exp_avg", "exp_avg_sq"), self.moments, strict=True):
            self._copy([s[key] for s in states], flat)
        self._copied_moments = [(tensor, tensor._version) for tensor in moments]

    def invalidate_moments(self) -> None:
        """Make the next `copy_from_tensors` copy the moments, even where they have not changed."""
        self._copied_moments = []

    @property
    def adam_steps(self) -> int:
        """Return the number of Adam's steps so far."""
        return int(self._adam_states()[0]["step"])

    def copy_parameters_to_tensors(self) -> None:
        """Copy the parameters back into the tensors."""
        self._copy(self.tensors, self.network.weights, to_tensors=True)

    def first_nonfinite_gradient(self) -> str:
        """Return the name of the first tensor whose gradient is not finite, or "the loss" where there is none."""
        network = self.network
        for name, low, high in zip(self.names, network.param_bounds, network.param_bounds[1:], strict=False):
            if not np.isfinite(network.grads[0, network.param_index[low:high]]).all():
                return name
        return "the loss"

    def copy_to_tensors(self, adam_steps: int) -> None:
        """Copy parameters and moments back into the tensors, and set Adam's number of steps to `adam_steps`."""
        self.copy_parameters_to_tensors()
        states = self._adam_states()
        for key, flat in zip(("exp_avg", "exp_avg_sq"), self.moments, strict=True):
            self._copy([s[key] for s in states], flat, to_tensors=True)
        with torch.no_grad():
            for state in states:
                state["step"].fill_(adam_steps)


def adam_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the settings of a plain Adam with one group of parameters.

    Raises UnsupportedByCompiledError for any other optimizer.
    """
    group = optimizer.param_groups[0]
    plain = type(optimizer) is torch.optim.Adam and len(optimizer.param_groups) == 1
    if not plain or group["weight_decay"] or group["amsgrad"] or group["maximize"]:
        raise UnsupportedByCompiledError(f"its optimizer is {type(optimizer).__name__} with options of its own")
    return dict(group)


def actor_critic(policy: Any, threads: int = 1) -> tuple[NetworkMemory, dict[str, torch.Tensor], Array]:
    """Return the network of an actor-critic policy, its tensors by name, and where its outputs are, int64 [3].

    The three are the buffer of logits, the buffer of values, and the offset of log_std, -1 for none. `threads` is the
    number of threads that use the network at a time.

    Raises UnsupportedByCompiledError for a policy that compiled code does not support.
    """
    if not isinstance(policy.observation_space, Box):
        raise UnsupportedByCompiledError(f"its observations are a {type(policy.observation_space).__name__}")
    if type(policy) not in (ActorCriticPolicy, MaskableActorCriticPolicy):
        raise UnsupportedByCompiledError(f"its policy is a {type(policy).__name__}")
    if getattr(policy, "use_sde", False) or getattr(policy, "squash_output", False):
        raise UnsupportedByCompiledError("it explores by state-dependent noise, or squashes its actions")
    if not isinstance(policy.action_space, Discrete | Box):
        raise UnsupportedByCompiledError(f"its actions are {policy.action_space}")
    if isinstance(policy.action_space, Box) and len(policy.action_space.shape) != 1:
        raise UnsupportedByCompiledError(f"its actions have the shape {policy.action_space.shape}")
    if policy.features_extractor is not policy.vf_features_extractor:
        raise UnsupportedByCompiledError("its policy and its values have different features extractors")
    _check_observations(policy)
    spec = NetworkSpec(int(np.prod(policy.observation_space.shape)))
    names: list[str] = []
    if hasattr(policy, "log_std"):
        log_std = spec.add_vector(len(policy.log_std))
        names.append("log_std")
    features, order = _features(spec, policy.features_extractor, "features_extractor", names)
    mlp = policy.mlp_extractor
    policy_buffer = _layers(spec, mlp.policy_net, "mlp_extractor.policy_net", features, order, names)
    value_buffer = _layers(spec, mlp.value_net, "mlp_extractor.value_net", features, order, names)
    # Without hidden layers, the heads read the features themselves, in their order.
    policy_order, value_order = (order if buffer == features else None for buffer in (policy_buffer, value_buffer))
    logits = _linear(spec, policy.action_net, "action_net", policy_buffer, policy_order, LINEAR, names)
    values = _linear(spec, policy.value_net, "value_net", value_buffer, value_order, LINEAR, names)
    network, tensors = _build_network(spec, names, policy, threads, NUM_SHARDS)
    return network, tensors, np.array([logits, values, log_std if hasattr(policy, "log_std") else -1], np.int64)


def q_network(network: Any) -> tuple[NetworkMemory, dict[str, torch.Tensor], int]:
    """Return the network of an SB3 `QNetwork`, its tensors by name, and the buffer of its Q-values.

    Raises UnsupportedByCompiledError for a network that compiled code does not support.
    """
    _check_observations(network)
    spec = NetworkSpec(int(np.prod(network.observation_space.shape)))
    names: list[str] = []
    features, order = _features(spec, network.features_extractor, "features_extractor", names)
    values = _layers(spec, network.q_net, "q_net", features, order, names)
    compiled, tensors = _build_network(spec, names, network)
    return compiled, tensors, values


def _check_observations(policy: Any) -> None:
    """Raise UnsupportedByCompiledError for observations that are not vectors or boards of numbers."""
    if not isinstance(policy.observation_space, Box):
        raise UnsupportedByCompiledError(f"its observations are a {type(policy.observation_space).__name__}")
    if policy.normalize_images and is_image_space(policy.observation_space):
        raise UnsupportedByCompiledError("its observations are images, which the library scales")


def _build_network(
    spec: NetworkSpec, names: list[str], module: nn.Module, threads: int = 1, shards: int = 1
) -> tuple[NetworkMemory, dict[str, torch.Tensor]]:
    """Return the network of a spec, and the module's parameters with these names, in the order of the spec's."""
    parameters = dict(module.named_parameters())
    if sorted(parameters) != sorted(names):
        raise UnsupportedByCompiledError("its network has other parameters than weights and biases of known layers")
    for name, index in zip(names, spec.param_indices, strict=True):
        if parameters[name].numel() != index.size:
            raise UnsupportedByCompiledError(f"its {name} has another size")
    return NetworkMemory(spec, threads, shards), {name: parameters[name] for name in names}


def _features(spec: NetworkSpec, extractor: Any, name: str, names: list[str]) -> tuple[int, Array | None]:
    """Add a features extractor to the spec, and the names of its parameters to `names`.

    Returns the buffer of the features, and their order there where it is not torch's; see `NetworkSpec.add_dense`.
    """
    if type(extractor) is FlattenExtractor:
        return 0, None
    if type(extractor) is BackboneExtractor:
        return _backbone_layers(spec, extractor, f"{name}.backbone", names), None
    if type(extractor) is not BoardCnn:
        raise UnsupportedByCompiledError(f"its features are a {type(extractor).__name__}'s")
    return _board_layers(spec, extractor, tuple(extractor._observation_space.shape or ()), name, names), None


def _board_layers(spec: NetworkSpec, module: Any, shape: tuple[int, ...], name: str, names: list[str]) -> int:
    """Return the buffer of the features of MinAtar's network: `module` has its convolution and its dense layer."""
    rows, side, depth = (*shape, 1) if module.add_channel else shape
    convolution: Any = module.convolution[0]
    if len(module.convolution) != 3 or not (module.channels_last or module.add_channel):
        raise UnsupportedByCompiledError("its convolution is not MinAtar's, or its boards have their channels first")
    if convolution.kernel_size != (3, 3) or convolution.stride != (1, 1) or convolution.out_channels != 16:
        raise UnsupportedByCompiledError("its convolution is not MinAtar's")
    names += [f"{name}.convolution.0.weight", f"{name}.convolution.0.bias"]
    first: Any = module.dense[0]
    board, order = spec.add_convolution(rows, side, depth, RELU)
    return _linear(spec, first, f"{name}.dense.0", board, order, RELU, names)


def _backbone_layers(spec: NetworkSpec, extractor: BackboneExtractor, name: str, names: list[str]) -> int:
    """Return the buffer of the features of a backbone that says which known layers compute them."""
    backbone: Any = extractor.backbone
    if hasattr(backbone, "compiled_board") and backbone.compiled_board():
        return _board_layers(spec, backbone, tuple(extractor._observation_space.shape or ()), name, names)
    compiled = backbone.compiled_layers() if hasattr(backbone, "compiled_layers") else None
    if compiled is None:
        raise UnsupportedByCompiledError(f"its backbone is {type(backbone).__module__.rpartition('.')[2]}")
    member, layers = compiled
    return _layers(spec, layers, f"{name}.{member}", 0, None, names)


def _layers(
    spec: NetworkSpec, stem: nn.Sequential, name: str, source: int, order: Array | None, names: list[str]
) -> int:
    """Add a chain of linear layers with activations to the spec, and the names to `names`; return the last buffer.

    `source` is the buffer that it reads, and `order` the order of the numbers in it, None for torch's.
    """
    modules = list(stem)
    for k, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            following = modules[k + 1] if k + 1 < len(modules) else None
            if following is not None and type(following) not in _ACTIVATIONS:
                raise UnsupportedByCompiledError(f"its activation is {type(following).__name__}")
            activation = LINEAR if following is None else _ACTIVATIONS[type(following)]
            source = _linear(spec, module, f"{name}.{k}", source, order, activation, names)
            order = None
        elif type(module) not in _ACTIVATIONS:
            raise UnsupportedByCompiledError(f"its network has a {type(module).__name__}")
    return source


def _linear(
    spec: NetworkSpec, module: nn.Linear, name: str, source: int, order: Array | None, activation: int, names: list[str]
) -> int:
    """Add a linear layer that reads buffer `source` to the spec, and its names to `names`; return its buffer."""
    if module.out_features > MAX_UNITS or module.bias is None:
        raise UnsupportedByCompiledError(
            f"its {name} has {module.out_features} units, or no bias; torch serves large networks better"
        )
    names += [f"{name}.weight", f"{name}.bias"]
    return spec.add_dense(source, module.out_features, activation, order)
