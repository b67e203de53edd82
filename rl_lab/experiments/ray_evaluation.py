"""Play the episodes of an evaluation by workers on a Ray cluster: `rl-lab evaluate ... workers=ray`.

`RayEvaluation.play` has the type `episodes.PlayPlans`. It sends the scenario, and the files of the agent and of its
opponent, to the workers; each plays the episodes of some of the environments. The result is the same bit for bit as
that of one process. Workers write the files that they receive into the user's cache folder on their machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from rl_lab.adapters import make
from rl_lab.core.agent import Agent
from rl_lab.evaluation.episodes import EpisodePlan, EvaluationPart, can_be_divided, play_part
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.build import make_opponent
from rl_lab.experiments.checkpoint_lookup import locate
from rl_lab.experiments.packed_agent import PackedAgent, pack_agent
from rl_lab.experiments.packed_scenario import PackedScenario, pack_scenario
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_envs import make_agent
from rl_lab.learners.rllib.job_pool import JobPool
from rl_lab.learners.rllib.ray_workers import RayWorkers

_PARTS_PER_WORKER = 2  # several, so that all workers finish at about the same time


@dataclass(frozen=True)
class RayEvaluation:
    """Plays the episodes of an agent on a Ray cluster.

    Where each action depends on its row alone, the environments are divided among the workers; else one worker has
    all of them, so that the result is that of one process in any case.

    Args:
        workers: the workers, and the cluster they are on.
        scenario: has the world and the opponent.
        target: a run or a checkpoint, see `checkpoint_lookup.locate`; None for an agent that is not trained.
        agent_scenario: the scenario with which the agent is loaded, see `agent_loading.with_trained_seats`.
    """

    workers: RayWorkers
    scenario: Scenario
    target: str | None
    agent_scenario: Scenario

    def play(
        self,
        agent: Agent,
        plans: Sequence[tuple[EpisodePlan, Agent | None]],
        progress: Callable[[int, int], None] | None,
    ) -> list[list[EvaluationPart]]:
        """Return the parts of each plan, with its opponent. Raises as `RayWorkers.open` and `JobPool.run`."""
        performer = self._performer([plan for plan, _ in plans])
        cluster, count = self.workers.open()
        pool = JobPool(cluster, performer, count=count)
        try:
            jobs = [
                [(index, env_indices)]
                for index, (plan, opponent) in enumerate(plans)
                for env_indices in plan.divide(
                    _PARTS_PER_WORKER * count if can_be_divided(plan, agent, opponent) else 1
                )
            ]
            parts: list[list[EvaluationPart]] = [[] for _ in plans]
            for index, part in pool.run(jobs):
                parts[index].append(part)
                if progress is not None:
                    done = sum(len(each.episodes) for each in parts[index])
                    progress(done, plans[index][0].episodes)
            return parts
        finally:
            pool.close()

    def _performer(self, plans: list[EpisodePlan]) -> _EpisodePerformer:
        agent = None if self.target is None else pack_agent(self.target)
        return _EpisodePerformer(
            plans, pack_scenario(self.scenario), self.agent_scenario, agent, torch.get_num_threads()
        )


@dataclass
class _EpisodePerformer:
    """Plays episodes in the process of a worker."""

    plans: list[EpisodePlan]
    packed: PackedScenario
    agent_scenario: Scenario
    agent: PackedAgent | None  # None for one that is not trained
    torch_threads: int  # as in the user's process: the number can change the rounding of torch's sums

    def begin(self) -> None:
        """Permit the world, and write the files of the agents where they are missing."""
        torch.set_num_threads(self.torch_threads)
        self._scenario = self.packed.unpack()
        self._path = None if self.agent is None else self.agent.unpack()

    def perform(self, tasks: Sequence[tuple[int, range]]) -> Iterator[tuple[list[int], tuple[int, EvaluationPart]]]:
        """Play each task, the index of a plan and indices of environments, and yield the index and the part."""
        for position, (index, env_indices) in enumerate(tasks):
            plan = self.plans[index]
            part = play_part(plan, self._agent(), make_opponent(self._scenario), env_indices, threads=1)
            yield [position], (index, part)

    def _agent(self) -> Agent:
        if self._path is not None:
            return load_agent(locate(self._path).folder, self.agent_scenario)[0]
        with closing(make.make(self._scenario.world, 1, self._scenario.params, threads=1)) as envs:
            return make_agent(
                {"name": self.agent_scenario.agent, **dataclasses.asdict(self.agent_scenario.config)}, envs.world
            )
