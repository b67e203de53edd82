"""How RLlib's modules make their policies: untrained ones, or policies that begin with a pretrained backbone.

A `PolicyBuilder` is sent to every process that samples or learns. It has the backbone's parameters with it, so that no
process needs to read the folder. RLlib has one learning rate and a loss of its own; settings of a backbone that
would change these are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from gymnasium.spaces import Discrete
from torch import nn

from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.learners.pretraining.networks import is_code
from rl_lab.learners.pretraining.settings import BackboneSettings
from rl_lab.learners.sb3 import backbone as sb3_backbone
from rl_lab.learners.sb3.encoder import Encoder
from rl_lab.learners.sb3.policies import build_policy

# Settings that RLlib's optimizer and loss have not, with the values that leave them out.
_ONLY_SB3 = {"learning_rate": None, "critic_warmup": 0, "kl_coef": 0.0}


@dataclass(frozen=True)
class RllibBackbone:
    """A pretrained backbone, and how a training of RLlib's uses it."""

    settings: BackboneSettings
    saved: SavedBackbone

    @property
    def is_encoder(self) -> bool:
        """Return whether the trunk encodes observations before the policy gets them."""
        return self.settings.mode == "encoded"

    def encoder(self, device: str) -> Encoder | None:
        """Return what encodes the observations, None where the policy has the trunk."""
        return Encoder(self.saved.spec, self.saved.part("trunk"), device) if self.is_encoder else None

    def load_into(self, policy: Any) -> None:
        """Load the parts into a policy; a frozen trunk gets no gradients from now on.

        Raises ValueError as `backbone.load_parts`.
        """
        sb3_backbone.load_parts(policy, self.settings, self.saved)
        if self.settings.mode == "frozen":
            for parameter in self.trunk(policy):
                parameter.requires_grad_(False)

    def trunk(self, policy: Any) -> list[nn.Parameter]:
        """Return the parameters of a policy's trunk, none where an encoder has it."""
        return sb3_backbone.trunk_parameters(policy, self.settings)

    def describe(self, policy: Any) -> str:
        """Return what the first line of a training says about the backbone of its policy."""
        return sb3_backbone.describe(policy, self.settings, self.saved)


@dataclass(frozen=True)
class PolicyBuilder:
    """A function that builds the policy, for RLlib to call where a module is made."""

    kind: Any  # SB3's class of the policy
    spaces: Any  # with `observation` and `action`, which are those of the world
    arguments: dict[str, Any]
    backbone: RllibBackbone | None = None

    def __call__(self) -> Any:
        """Return a new policy, with the parts of the backbone. Raises ValueError where these do not fit."""
        encoder = None if self.backbone is None else self.backbone.encoder("cpu")
        features = None if encoder is None else encoder.space
        policy: Any = build_policy(self.kind, self.spaces, features=features, **self.arguments)
        if self.backbone is not None:
            self.backbone.load_into(policy)
        return policy


def policy_builder(
    kind: Any, world: Any, arguments: dict[str, Any], backbone: BackboneSettings | None = None, *, processes: int = 0
) -> PolicyBuilder:
    """Return a function that builds the policy.

    Args:
        kind: SB3's class of the policy.
        world: the spec of the environments.
        arguments: those of the class.
        backbone: how the training uses a pretrained network, None for none.
        processes: how many other processes sample or learn.

    Raises:
        ValueError: actions are masked and not discrete, or RLlib's agents do not have what the backbone's settings ask.
        UsageError: the backbone's folder is damaged or has changed.
    """
    if not isinstance(world.action, Discrete) and world.has_action_mask:
        raise ValueError(f"{world.name} masks actions that are not discrete")
    # Of a world, its spaces are enough, and processes that have not loaded the world can build the policy.
    spaces = SimpleNamespace(observation=world.observation, action=world.action)
    if backbone is None:
        return PolicyBuilder(kind, spaces, arguments)
    for name, value in _ONLY_SB3.items():
        if getattr(backbone, name) != value:
            raise ValueError(f"backbone.{name} is for agent=ppo, not for agents of RLlib: leave it out")
    if processes and is_code(backbone.backbone_spec().network.kind):
        reason = "a backbone of your own file is made in this process only"
        raise ValueError(f"{reason}: it needs agent.env_runners=0 and agent.learners=0")
    return PolicyBuilder(kind, spaces, arguments, RllibBackbone(backbone, sb3_backbone.load_saved(backbone)))


def backbone_of(module: Any) -> RllibBackbone | None:
    """Return the backbone of one of RLlib's modules, None where its policy began without one."""
    backbone: RllibBackbone | None = getattr(module.model_config["build"], "backbone", None)
    return backbone
