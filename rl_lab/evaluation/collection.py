"""Collect data sets (`rl-lab data collect`): agents play whole episodes, and `collect` yields transitions as columns.

The command writes the columns; no file is written here. The same plan and agents give the same data on every machine.

Shapes: N worlds, A agents, B = N x A rows; row i * A + a is agent a of world i. P policies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.random_actions import actions_at, counter_uniforms
from rl_lab.core.random_streams import GeneratorStream, PhiloxStream
from rl_lab.core.rng import philox
from rl_lab.core.world import Array
from rl_lab.datasets.columns import Columns
from rl_lab.datasets.recorder import EpisodeRecorder
from rl_lab.evaluation.episodes import MAX_EPISODE_STEPS, EndlessEpisodeError, preserve_global_rng
from rl_lab.multiagent.match_runner import begin_episodes, write_actions

SEEDS = 2**31  # of collected episodes, from 0 on; evaluation uses those from 2**31 on
_MAX_ENVS, _MAX_FOREIGN_ENVS = 512, 8
_ASSUMED_LENGTH = 1000  # of an episode in a world without a horizon, to compute N


@dataclass(frozen=True)
class Policy:
    """An agent whose episodes are recorded."""

    agent: Agent
    deterministic: bool  # False where it samples its actions
    seats: tuple[int, ...] = ()  # the indices of the agents that it can be; () for any


@dataclass(frozen=True)
class CollectionPlan:
    """The amount of data to collect, and the world: at least `steps` transitions, or exactly `episodes` episodes."""

    world: str
    params: dict[str, Any]
    seed: int
    steps: int = 0
    episodes: int = 0
    noise: float = 0.0  # the probability that a random legal action replaces an agent's action

    def part(self, index: int, parts: int) -> CollectionPlan:
        """Return the plan of one of several parts of nearly equal size."""
        steps, episodes = (total // parts + (index < total % parts) for total in (self.steps, self.episodes))
        return CollectionPlan(self.world, self.params, self.seed, steps, episodes, self.noise)

    def num_envs(self, world: EnvSpec) -> int:
        """Return N. It depends on the plan alone, so that the same plan gives the same data on every machine."""
        max_envs = _MAX_FOREIGN_ENVS if make.is_foreign(self.world, self.params) else _MAX_ENVS
        needed = self.episodes or -(-self.steps // ((world.horizon or _ASSUMED_LENGTH) * len(world.agents)))
        return int(np.clip(needed, 1, max_envs))


def collect(
    plan: CollectionPlan, policies: Sequence[Policy], progress: Callable[[int, int], None] | None = None
) -> Iterator[Columns]:
    """Play episodes, and yield the columns of those that have ended, several at a time.

    Every episode that begins is played to its end, because episodes that are cut off when enough is collected would
    mostly be long ones. So there are at least `plan.steps` transitions. Episode k of the world has the seed
    `first_seed(plan.seed) + k` modulo 2**31, and group id k.

    In a world of one agent, each policy plays its share of the steps or episodes. In a world of several, agent a in
    episode k is played by policy (k + a) modulo P, among those that can be agent a.

    `progress` is called with the number of transitions so far, and of the world's episodes that have begun. The global
    generators of numpy, random and torch are restored.

    Raises:
        ValueError: `make`, an agent's `bind` or `write_actions` raises it; or no policy can be some agent.
        NonFiniteError: as in `Batch.step`.
        EndlessEpisodeError: an episode in a world without a horizon has not ended after 100,000 steps.
    """
    with closing(make.make(plan.world, 1, plan.params)) as envs:
        world = envs.world
    if len(world.agents) > 1:
        parts = [(plan, tuple(range(len(policies))))]
    else:
        parts = [(plan.part(index, len(policies)), (index,)) for index in range(len(policies))]
    first_group = done = 0
    for part, policy_indices in parts:
        if not (part.steps or part.episodes):
            continue  # fewer episodes than policies
        with preserve_global_rng():
            if torch := sys.modules.get("torch"):
                torch.manual_seed(plan.seed)  # so that a repeated collection samples the same actions
            disabled = AutoresetMode.DISABLED
            envs = make.make(part.world, part.num_envs(world), part.params, autoreset=disabled)
            with closing(envs):
                collector = _EpisodeCollector(envs, part, policies, policy_indices, first_group)
                yield from collector.play(progress, done)
                first_group, done = collector.next_group, done + collector.finished_steps


def first_seed(seed: int) -> int:
    """Return the seed of the first episode of the data set that is collected with this seed."""
    return int(np.random.default_rng((seed, GeneratorStream.COLLECTION)).integers(SEEDS))


class _EpisodeCollector:
    """Plays the episodes of a plan in one batch, and records them."""

    def __init__(
        self,
        envs: BatchedEnv,
        plan: CollectionPlan,
        policies: Sequence[Policy],
        policy_indices: tuple[int, ...],
        first_group: int,
    ) -> None:
        self.envs, self.plan, self.policies, self.policy_indices = envs, plan, policies, policy_indices
        self.num_agents, rows = len(envs.world.agents), envs.rewards.size
        self.recorder = EpisodeRecorder(envs)
        self.first_seed, self.first_group, self.next_group = first_seed(plan.seed), first_group, first_group
        self.finished_steps = 0
        self.live = np.zeros(envs.num_envs, np.bool_)
        self.clock = np.zeros(envs.num_envs, np.int64)  # steps of each world's episode so far
        self.keys, self.noise_keys = np.zeros(rows, np.uint64), np.zeros(rows, np.uint64)
        self.policy_of_agent = np.zeros((envs.num_envs, self.num_agents), np.int64)  # the policy of each agent
        self.states: list[Any] = [None] * len(policies)
        self.candidates = [self._policies_for(agent) for agent in range(self.num_agents)]  # policies, by agent

    def _policies_for(self, agent: int) -> Array:
        """Return the policies that can be this agent. Raises ValueError where there is none."""
        candidates = [m for m in self.policy_indices if not self.policies[m].seats or agent in self.policies[m].seats]
        if not candidates:
            name = self.envs.world.agents[agent]
            raise ValueError(f"{self.envs.world.name}: no agent that is named can be {name}; name one more")
        return np.array(candidates)

    @property
    def steps(self) -> int:
        """Return the number of transitions so far."""
        return self.finished_steps + self.recorder.unfinished_steps

    def play(self, progress: Callable[[int, int], None] | None, steps_before: int) -> Iterator[Columns]:
        """Play all episodes, and yield those that have ended; see `collect`."""
        self._begin(np.ones(self.envs.num_envs, np.bool_))
        for policy_index in self.policy_indices:
            agent: Any = self.policies[policy_index].agent
            agent.bind(self.envs)
            if hasattr(agent, "set_row_seeds"):
                agent.set_row_seeds(self.keys, self.clock)
        while self.live.any():
            if self.recorder.is_full and (columns := self.recorder.take()) is not None:
                yield columns
            self._step()
            if progress is not None:
                progress(steps_before + self.steps, self.next_group)
        if (columns := self.recorder.take()) is not None:
            yield columns

    def _begin(self, mask: Array) -> None:
        """Begin episodes in these worlds, bool [N], as far as more are needed."""
        envs, worlds = self.envs, np.flatnonzero(mask)
        if self.plan.episodes:
            worlds = worlds[: self.plan.episodes - (self.next_group - self.first_group)]
        elif self.steps >= self.plan.steps:
            worlds = worlds[:0]
        self.live[mask] = False
        self.live[worlds] = True
        groups = self.next_group + np.arange(len(worlds))
        self.next_group += len(worlds)
        seeds = np.zeros(envs.num_envs, np.int64)
        seeds[worlds] = (self.first_seed + groups) % SEEDS
        begins = np.zeros(envs.num_envs, np.bool_)
        begins[worlds] = True
        if len(worlds):
            envs.seed(seeds)
            envs.reset(begins)
        self.clock[mask] = 0
        for agent, candidates in enumerate(self.candidates):
            self.policy_of_agent[worlds, agent] = candidates[(groups + agent) % len(candidates)]
        rows = (worlds[:, None] * self.num_agents + np.arange(self.num_agents)).reshape(-1)
        row_seeds, agents = np.repeat(seeds[worlds], self.num_agents).astype(np.uint64), rows % self.num_agents
        self.keys[rows] = philox(row_seeds ^ PhiloxStream.COLLECTED_ACTION.key, agents.astype(np.uint64))
        self.noise_keys[rows] = philox(row_seeds ^ PhiloxStream.COLLECTION_NOISE.key, agents.astype(np.uint64))
        self.recorder.begin(worlds, seeds[worlds], groups, self.policy_of_agent[worlds])
        if len(worlds):
            for index in self.policy_indices:
                self.states[index] = begin_episodes(self.policies[index].agent, self.states[index], begins, envs)

    def _step(self) -> None:
        """Let the agents act, step the batch and record it."""
        envs = self.envs
        rows = np.flatnonzero(envs.acting & self.live[:, None])
        self._write_actions(rows)
        if self.plan.noise:
            self._add_noise(rows)
        self.recorder.record_decisions(rows)
        envs.step()
        self.clock[self.live] += 1
        self.finished_steps += self.recorder.record_outcomes()
        ended = self.live & envs.done
        if ended.any():
            self._begin(ended)
        elif envs.world.horizon == 0 and self.clock.max() >= MAX_EPISODE_STEPS:
            name = envs.world.name
            raise EndlessEpisodeError(
                f"{name}: an episode has not ended after {MAX_EPISODE_STEPS:,} steps; give the world a horizon"
            )

    def _write_actions(self, rows: Array) -> None:
        if self.num_agents == 1:  # whose agent need not accept `rows`
            self._write_actions_of(self.policy_indices[0], None)
            return
        acting = self.policy_of_agent.reshape(-1)[rows]
        for policy_index in self.policy_indices:
            if len(rows_of_policy := rows[acting == policy_index]):
                self._write_actions_of(policy_index, rows_of_policy)

    def _write_actions_of(self, index: int, rows: Array | None) -> None:
        policy, state = self.policies[index], self.states[index]
        mode = policy.deterministic
        self.states[index] = write_actions(policy.agent, self.envs, rows, state=state, deterministic=mode)

    def _add_noise(self, rows: Array) -> None:
        """Replace the actions of some of these rows by random legal ones."""
        envs = self.envs
        actions = envs.actions.reshape(-1, *envs.actions.shape[2:])
        shape = actions.shape[1:]
        numbers = counter_uniforms(
            self.noise_keys[rows], self.clock[rows // self.num_agents], (1 + max(sum(shape), 1),)
        )
        is_random = numbers[:, 0] < self.plan.noise
        random_rows = rows[is_random]
        if not len(random_rows):
            return
        masks = envs.action_mask.reshape(len(actions), -1)[random_rows] if envs.world.has_action_mask else None
        uniform = numbers[is_random, 1:].reshape(len(random_rows), *shape)
        actions[random_rows] = actions_at(uniform, envs.world.action_spaces, random_rows % self.num_agents, masks)
        self._tell_executed_actions(random_rows)

    def _tell_executed_actions(self, rows: Array) -> None:
        """Let agents that remember their actions remember the random ones that replace them in these rows."""
        actions = self.envs.actions.reshape(-1, *self.envs.actions.shape[2:])
        acting = self.policy_of_agent.reshape(-1)[rows]
        for index in self.policy_indices:
            replace_actions = getattr(self.policies[index].agent, "replace_actions", None)
            if replace_actions is not None and len(own := rows[acting == index]):
                self.states[index] = replace_actions(self.states[index], actions[own], own)
