"""Policies of RLlib's agents, made and loaded without Ray."""

from __future__ import annotations

from typing import Any

from rl_lab.core.agent import Agent, StateDict
from rl_lab.core.protocols import EnvSpec
from rl_lab.learners.pretraining.settings import BackboneSettings


def network_arguments(config: Any, world: EnvSpec, backbone: BackboneSettings | None) -> dict[str, Any]:
    """Return the arguments of a policy's class by the network of an agent's Config, or of a backbone in its place.

    Raises ValueError for observations that it cannot take.
    """
    from rl_lab.learners.sb3.backbone import backbone_policy_arguments
    from rl_lab.learners.sb3.policies import policy_arguments

    if backbone is not None:
        return backbone_policy_arguments(backbone, world)
    return policy_arguments(world, config.policy, config.net_arch, config.activation)


def actor_critic(
    agent: str, config: Any, world: EnvSpec, backbone: BackboneSettings | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the class of an actor-critic and its arguments, by the network of an agent's Config or of a backbone.

    Raises ValueError, with the agent's name, for observations that it cannot take.
    """
    from stable_baselines3.ppo import MlpPolicy

    from rl_lab.adapters.structured import structure_of
    from rl_lab.learners.sb3.agent import maskable_policy

    if (structure := structure_of(world)) is not None:
        raise ValueError(f"{agent}: {world.name} observes a {structure.kind}: use agent=ppo")
    arguments = network_arguments(config, world, backbone)
    arguments |= {"log_std_init": config.log_std_init, "ortho_init": config.ortho_init}
    return maskable_policy(arguments) if world.has_action_mask else (MlpPolicy, arguments)


def load(
    agent: str,
    policy: tuple[Any, dict[str, Any]],
    world: EnvSpec,
    state_dict: StateDict,
    device: str,
    backbone: BackboneSettings | None = None,
) -> Agent:
    """Return a trained agent, whose policy has this class and these arguments."""
    from rl_lab.learners.sb3.agent import load_policy
    from rl_lab.learners.sb3.backbone import saved_encoder
    from rl_lab.learners.sb3.policies import build_policy

    kind, arguments = policy
    encoder = saved_encoder(backbone, state_dict, device)
    untrained = build_policy(kind, world, features=None if encoder is None else encoder.space, **arguments)
    return load_policy(untrained.to(device), agent, state_dict, normalized=False, encoder=encoder)
