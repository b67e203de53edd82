"""Demonstrations for a student: episodes that one agent plays, in which another one, the teacher, names its actions.

Shapes: N worlds, A agents, B = N x A rows; row i * A + a is agent a of world i. M decisions are recorded.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_actions import actions_at
from rl_lab.core.random_streams import GeneratorStream
from rl_lab.core.world import Array
from rl_lab.evaluation.episodes import preserve_global_rng
from rl_lab.multiagent.match_runner import write_actions

_SEEDS = 2**31  # of training; evaluation uses those from here on
_LOWEST_PROBABILITY = 1e-6  # whose logarithm is still finite


@dataclass(frozen=True)
class DemonstrationPlan:
    """The episodes to play: `episodes` of them at once, until all have ended or `steps` decisions are recorded."""

    world: str
    params: dict[str, Any]
    episodes: int
    steps: int
    seed: int
    noise: float = 0.0  # the probability that a random legal action is played instead of the player's
    teacher_share: float = 0.0  # the probability that the teacher's action is played instead of the player's
    sample: bool = False  # the player samples its actions


@dataclass(frozen=True)
class Demonstrations:
    """M decisions. The weight of one is how much worse the teacher finds its worst action than its best one."""

    observations: Array  # [M, *shape]
    actions: Array  # the teacher's: int64 [M], or float32 [M, k]
    weights: Array  # float64 [M]
    action_mask: Array  # uint8 [M, n], or [M, 0] where every action is legal
    worlds: Array  # int64 [M], in which of the plan's episodes it was

    @staticmethod
    def concatenate(parts: list[Demonstrations]) -> Demonstrations:
        """Return the decisions of several parts as one, in their order."""
        return Demonstrations(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in Demonstrations.__annotations__)
        )


def demonstrate(plan: DemonstrationPlan, teacher: Agent, player: Agent | None, iteration: int) -> Demonstrations:
    """Play episodes and return what the teacher would do in each decision of them; without a player it plays itself.

    The episodes of an iteration have seeds of their own, below 2**31. The global generators of numpy, random and torch
    are restored.

    Raises:
        ValueError: `make`, an agent's `bind` or `write_actions` raises it.
        NonFiniteError: as in `Batch.step`.
    """
    generator = np.random.default_rng((plan.seed, iteration, GeneratorStream.DISTILLATION))
    with preserve_global_rng():
        if torch := sys.modules.get("torch"):
            words = np.random.SeedSequence((plan.seed, iteration, GeneratorStream.DISTILLATION)).generate_state(2)
            torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        disabled = AutoresetMode.DISABLED
        with closing(make.make(plan.world, plan.episodes, plan.params, autoreset=disabled)) as envs:
            envs.seed((int(generator.integers(_SEEDS)) + np.arange(plan.episodes)) % _SEEDS)
            envs.reset(np.ones(plan.episodes, np.bool_))
            return _play(plan, envs, teacher, player, generator)


def _play(
    plan: DemonstrationPlan, envs: BatchedEnv, teacher: Agent, player: Agent | None, generator: np.random.Generator
) -> Demonstrations:
    agents = [teacher] if player is None else [teacher, player]
    states: list[Any] = [None] * len(agents)
    for agent in agents:
        agent.bind(envs)
    parts: list[Demonstrations] = []
    live, count = np.ones(plan.episodes, np.bool_), 0
    several = len(envs.world.agents) > 1
    actions = envs.actions.reshape(-1, *envs.actions.shape[2:])
    while live.any() and count < plan.steps:
        rows = np.flatnonzero(envs.acting & live[:, None])
        labels = None
        for index, agent in enumerate(agents):
            acting, is_deterministic = rows if several else None, index == 0 or not plan.sample
            states[index] = write_actions(agent, envs, acting, state=states[index], deterministic=is_deterministic)
            labels = actions[rows].copy() if labels is None else labels
        assert labels is not None
        if len(rows):
            observations = envs.observations.reshape(-1, *envs.observations.shape[2:])[rows].copy()
            mask = _mask(envs, rows)
            weights = _weights(envs, teacher, observations, rows, mask)
            no_mask = np.zeros((len(rows), 0), np.uint8)
            worlds = rows // len(envs.world.agents)
            parts.append(Demonstrations(observations, labels, weights, no_mask if mask is None else mask, worlds))
            count += len(rows)
        if plan.teacher_share and player is not None:
            is_teachers = generator.random(len(rows)) < plan.teacher_share
            actions[rows[is_teachers]] = labels[is_teachers]
        if plan.noise:
            _add_noise(envs, rows, plan.noise, generator)
        envs.step()
        live &= ~envs.done
    return Demonstrations.concatenate(parts)


def _mask(envs: BatchedEnv, rows: Array) -> Array | None:
    """Return a copy of the action masks of these rows, None in a world without."""
    return envs.action_mask.reshape(-1, envs.action_mask.shape[-1])[rows] if envs.world.has_action_mask else None


def _weights(envs: BatchedEnv, teacher: Any, observations: Array, rows: Array, mask: Array | None) -> Array:
    """Return the weights of these rows, float64 [R]: 1 where the teacher does not say what it thinks of each action.

    A DQN has Q-values. Of a policy, the logarithms of its probabilities stand for them, as in VIPER.
    """
    if not isinstance(envs.world.action, Discrete):
        return np.ones(len(rows))
    if hasattr(teacher, "action_scores"):
        scores = teacher.action_scores(observations, rows=rows)
    elif hasattr(teacher, "probabilities"):
        probs = teacher.probabilities(observations, mask, rows=rows)
        scores = np.log(np.maximum(probs, _LOWEST_PROBABILITY))
    else:
        return np.ones(len(rows))
    legal = np.ones(scores.shape, np.bool_) if mask is None else mask[:, : scores.shape[1]] != 0
    best, worst = np.where(legal, scores, -np.inf).max(axis=1), np.where(legal, scores, np.inf).min(axis=1)
    return np.asarray(best - worst, np.float64)


def _add_noise(envs: BatchedEnv, rows: Array, noise: float, generator: np.random.Generator) -> None:
    """Replace the actions of some of these rows by random legal ones."""
    actions = envs.actions.reshape(-1, *envs.actions.shape[2:])
    is_random = generator.random(len(rows)) < noise
    uniform = generator.random((len(rows), *actions.shape[1:]))[is_random]
    random_rows = rows[is_random]
    if len(random_rows):
        seats = random_rows % len(envs.world.agents)
        actions[random_rows] = actions_at(uniform, envs.world.action_spaces, seats, _mask(envs, random_rows))
