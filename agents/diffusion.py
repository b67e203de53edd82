"""Agent `diffusion`: a diffusion policy over sequences of actions, which `rl-lab pretrain diffusion` has trained.

This file only loads it. The policy is in `rl_lab.learners.generative`.

Source: Chi et al. 2023, "Diffusion Policy: visuomotor policy learning via action diffusion".
"""

from __future__ import annotations

from rl_lab.core.agent import Agent, Learner, StateDict
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.learners.generative.settings import DiffusionConfig as Config


def learner(config: Config, envs: BatchedEnv, *, budget: int, seed: int, device: str) -> Learner:
    """Raise ValueError: a diffusion policy learns from a data set, not from a world."""
    raise ValueError(f"agent diffusion learns from a data set of {envs.world.name}: rl-lab pretrain diffusion data=DIR")


def load(config: Config, world: EnvSpec, state_dict: StateDict, *, device: str) -> Agent:
    """Return the agent of a policy. Raises ValueError or KeyError where it does not fit the world."""
    from rl_lab.learners.generative.diffusion_agent import load_diffusion

    return load_diffusion(config, world, state_dict, device)
