"""Policies of RLlib's agents, made and loaded without Ray."""

from __future__ import annotations

from typing import Any

from rl_lab.core.agent import Agent, StateDict
from rl_lab.core.protocols import EnvSpec


def actor_critic(agent: str, config: Any, world: EnvSpec) -> tuple[Any, dict[str, Any]]:
    """Return the class of an actor-critic and its arguments, by the network that an agent's Config describes.

    Raises ValueError, with the agent's name, for observations that it cannot take.
    """
    from stable_baselines3.ppo import MlpPolicy

    from rl_lab.adapters.structured import structure_of
    from rl_lab.learners.sb3.agent import maskable_policy
    from rl_lab.learners.sb3.policies import policy_arguments

    if (structure := structure_of(world)) is not None:
        raise ValueError(f"{agent}: {world.name} observes a {structure.kind}: use agent=ppo")
    arguments = policy_arguments(world, config.policy, config.net_arch, config.activation)
    arguments |= {"log_std_init": config.log_std_init, "ortho_init": config.ortho_init}
    return maskable_policy(arguments) if world.has_action_mask else (MlpPolicy, arguments)


def load(agent: str, policy: tuple[Any, dict[str, Any]], world: EnvSpec, saved: StateDict, device: str) -> Agent:
    """Return a trained agent, whose policy has this class and these arguments."""
    from rl_lab.learners.sb3.agent import load_policy
    from rl_lab.learners.sb3.policies import build_policy

    kind, arguments = policy
    return load_policy(build_policy(kind, world, **arguments).to(device), agent, saved, normalized=False)
