"""Backbones by name: the files of agents/backbones/, and modules of a user's own.

A backbone is a plain `torch.nn.Module`. `forward(observations [B, *shape])` returns features, float32 [B, width]. It
prepares raw observations itself: scaling and standardising are inside. It has no BatchNorm, whose output for a row
depends on the other rows, and no dropout, whose features would differ between two calls.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import torch
from gymnasium.spaces import Box
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from rl_lab.core.agent import check_bounds
from rl_lab.core.errors import UsageError, nearest
from rl_lab.engine import code_names, user_code
from rl_lab.learners.pretraining.spec import NetworkChoice

MAX_WIDTH = 2**16


def names() -> list[str]:
    """Return the name of each file in agents/backbones/, sorted."""
    package = importlib.import_module("rl_lab.agents.backbones")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def config_of(kind: str, values: dict[str, Any]) -> Any:
    """Return the Config of a backbone with these values. Raises ValueError for an unknown name or a wrong value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if kind not in names():
        raise ValueError(f"no backbone {kind!r:.60}; {nearest(str(kind), names())}")
    config_type = importlib.import_module(f"rl_lab.agents.backbones.{kind}").Config
    fields = [field.name for field in dataclasses.fields(config_type)]
    for name in values:
        if name not in fields:
            raise ValueError(f"backbone {kind} has no {name!r:.60}; {nearest(str(name), fields)}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(config_type), values)
        config = config_type(**{str(key): value for key, value in OmegaConf.to_container(merged).items()})  # type: ignore[union-attr]
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ValueError(f"backbone {kind}: {str(error).partition(chr(10))[0]}") from None
    check_bounds(config)
    return config


def network_of(kind: str, values: dict[str, Any]) -> NetworkChoice:
    """Return a network with all hyperparameters, those in `values` in place of the defaults. Raises as `config_of`."""
    return NetworkChoice(kind, dataclasses.asdict(config_of(kind, values)))


def is_code(kind: str) -> bool:
    """Return whether a backbone's name means a class in a user's file or module."""
    return code_names.parse(kind) is not None


def network_of_code(kind: str, values: dict[str, Any]) -> NetworkChoice:
    """Return the network of a class that the user has named, which may run from now on.

    Raises UsageError where there is no such file.
    """
    if not kind.partition(":")[2]:
        raise UsageError(f"backbone {kind}: say which class of the file: backbone={kind}:CLASS")
    code = user_code.permit_named(kind)
    if code is None:
        raise UsageError(f"backbone {kind}: there is no such file")
    return NetworkChoice(code.world, values, code.record())


def _user_class(network: NetworkChoice) -> Any:
    """Return a user's class. Raises UsageError where its file may not run, is missing, or has no such module."""
    source = str(Path.cwd() / "the backbone")
    try:
        user_code.permit_recorded(network.kind, network.code or {}, source)
        member = user_code.load(network.kind)
    except UsageError as error:
        raise UsageError(f"backbone {network.kind}: {error}") from None
    if not isinstance(member, type) or not issubclass(member, nn.Module):
        raise UsageError(f"backbone {network.kind} is no class of torch.nn.Module")
    return member


def build(network: NetworkChoice, space: Box) -> nn.Module:
    """Return the module with new weights for observations of this space.

    Raises ValueError where the network is not known, does not go with the space, or does not keep the contract.
    """
    module: nn.Module
    if is_code(network.kind):
        module = _user_class(network)(space, **network.config)
    else:
        config = config_of(network.kind, network.config)
        module = importlib.import_module(f"rl_lab.agents.backbones.{network.kind}").Backbone(space, config)
    width_of(module, space, network.kind)
    return module


def width_of(module: nn.Module, space: Box, name: str) -> int:
    """Return the number of features of a backbone. Raises ValueError where it does not keep the contract."""
    for part in module.modules():
        if isinstance(part, _BatchNorm) or (isinstance(part, _DropoutNd) and part.p > 0):
            raise ValueError(f"backbone {name} has a {type(part).__name__}: use LayerNorm, and no dropout")
    with torch.no_grad():
        features = module(torch.zeros(2, *space.shape))
    is_features = isinstance(features, torch.Tensor) and features.dim() == 2 and len(features) == 2
    if not is_features or features.dtype != torch.float32 or not 1 <= features.shape[1] <= MAX_WIDTH:
        shape = list(getattr(features, "shape", []))
        raise ValueError(f"backbone {name} returns {shape} for 2 observations; expected float32 [2, 1 to {MAX_WIDTH}]")
    return int(features.shape[1])
