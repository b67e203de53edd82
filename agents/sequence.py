"""Agent `sequence`: a transformer that aims at a return (Decision Transformer), of `rl-lab pretrain sequence`.

This file only loads it. The policy is in `rl_lab.learners.generative`.

Source: Chen et al. 2021, "Decision Transformer: reinforcement learning via sequence modeling".
"""

from __future__ import annotations

from rl_lab.core.agent import Agent, Learner, StateDict
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.learners.generative.settings import SequenceConfig as Config


def learner(config: Config, envs: BatchedEnv, *, budget: int, seed: int, device: str) -> Learner:
    """Raise ValueError: a transformer over sequences learns from a data set, not from a world."""
    raise ValueError(f"agent sequence learns from a data set of {envs.world.name}: rl-lab pretrain sequence data=DIR")


def load(config: Config, world: EnvSpec, state_dict: StateDict, *, device: str) -> Agent:
    """Return the agent of a policy. Raises ValueError or KeyError where it does not fit the world."""
    from rl_lab.learners.generative.sequence_agent import load_sequence

    return load_sequence(config, world, state_dict, device)
