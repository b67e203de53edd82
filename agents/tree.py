"""Agent `tree`: a decision tree that `rl-lab pretrain tree` has distilled from another agent, and that reads as rules.

This file only loads it. The tree is in `rl_lab.learners.pretraining.decision_tree`, its fitting in `tree_fit`.

Source: Bastani, Pu and Solar-Lezama 2018, "Verifiable reinforcement learning via policy extraction".
"""

from __future__ import annotations

from dataclasses import dataclass

from rl_lab.core.agent import Agent, Learner, StateDict
from rl_lab.core.protocols import BatchedEnv, EnvSpec


@dataclass(frozen=True)
class Config:
    """A tree has no hyperparameters here: those of its distillation are settings of `rl-lab pretrain tree`."""


def learner(config: Config, envs: BatchedEnv, *, budget: int, seed: int, device: str) -> Learner:
    """Raise ValueError: a tree learns from another agent, not from a world."""
    raise ValueError(f"a tree is distilled from an agent: rl-lab pretrain tree teacher=RUN world={envs.world.name}")


def load(config: Config, world: EnvSpec, state_dict: StateDict, *, device: str) -> Agent:
    """Return the agent of a tree. Raises ValueError or KeyError where it does not fit the world."""
    from rl_lab.learners.pretraining.tree_agent import load_tree

    return load_tree(world, state_dict)
