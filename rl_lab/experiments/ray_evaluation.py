"""The episodes of an evaluation, played by workers on a Ray cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rl_lab.adapters import make
from rl_lab.core.agent import Agent
from rl_lab.engine.packed_code import PackedCode, pack
from rl_lab.evaluation.episodes import EpisodePlan, Part, can_be_divided, play_part
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.build import opponent_nodes
from rl_lab.experiments.checkpoint_lookup import locate
from rl_lab.experiments.packed_agent import PackedAgent, pack_agent
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_envs import make_agent
from rl_lab.learners.rllib.job_pool import JobPool
from rl_lab.learners.rllib.ray_workers import RayWorkers

_PARTS = 2  # of the environments for each worker, so that all finish at about the same time


@dataclass(frozen=True)
class RayEvaluation:
    """Plays the episodes of an agent on a Ray cluster.

    Where each action depends on its row alone, the environments are divided among the workers; else one worker has
    all of them, so that the result is that of one process in any case.

    Args:
        workers: where.
        scenario: has the world and the opponent.
        target: a run or a checkpoint, see `checkpoint_lookup.locate`; None for an agent that is not trained.
        seated: the scenario for which the agent is loaded.
    """

    workers: RayWorkers
    scenario: Scenario
    target: str | None
    seated: Scenario

    def play(
        self,
        agent: Agent,
        plans: Sequence[tuple[EpisodePlan, Agent | None]],
        progress: Callable[[int, int], None] | None,
    ) -> list[list[Part]]:
        """Return the parts of each plan, with its opponent. Raises as `RayWorkers.open` and `JobPool.run`."""
        performer = self._performer([plan for plan, _ in plans])
        cluster, count = self.workers.open()
        pool = JobPool(cluster, performer, count=count)
        try:
            jobs = [
                [(index, columns)]
                for index, (plan, opponent) in enumerate(plans)
                for columns in plan.columns(_PARTS * count if can_be_divided(plan, agent, opponent) else 1)
            ]
            parts: list[list[Part]] = [[] for _ in plans]
            for index, part in pool.run(jobs):
                parts[index].append(part)
                if progress is not None:
                    done = sum(len(each.episodes) for each in parts[index])
                    progress(done, plans[index][0].episodes)
            return parts
        finally:
            pool.close()

    def _performer(self, plans: list[EpisodePlan]) -> _EpisodePerformer:
        nodes = opponent_nodes(self.scenario)
        node = nodes[-1] if nodes else None
        return _EpisodePerformer(
            plans,
            self.seated,
            None if self.target is None else pack_agent(self.target),
            node,
            pack_agent(node["path"], average=node["average"]) if node is not None and "path" in node else None,
            pack(self.scenario.world),
            torch.get_num_threads(),
        )


@dataclass
class _EpisodePerformer:
    """Plays episodes in the process of a worker."""

    plans: list[EpisodePlan]
    seated: Scenario
    agent: PackedAgent | None  # None for one that is not trained
    opponent_node: dict[str, Any] | None
    opponent: PackedAgent | None  # None for one that is not trained
    code: PackedCode | None  # of the world
    torch_threads: int  # may decide how torch rounds

    def begin(self) -> None:
        """Permit the world, and write the files of the agents where they are missing."""
        torch.set_num_threads(self.torch_threads)
        if self.code is not None:
            self.code.permit()
        self._path = None if self.agent is None else self.agent.unpack()
        if self.opponent_node is not None and self.opponent is not None:
            self.opponent_node = {**self.opponent_node, "path": self.opponent.unpack()}

    def perform(self, tasks: Sequence[tuple[int, range]]) -> Iterator[tuple[list[int], tuple[int, Part]]]:
        """Yield for each plan's number and its environments the number and the part."""
        for position, (index, columns) in enumerate(tasks):
            plan = self.plans[index]
            envs = make.make(plan.world, 1, plan.params, threads=1)
            opponent = None if self.opponent_node is None else make_agent(self.opponent_node, envs.world)
            agent = self._agent(envs.world)
            envs.close()
            yield [position], (index, play_part(plan, agent, opponent, columns, threads=1))

    def _agent(self, world: Any) -> Agent:
        if self._path is not None:
            return load_agent(locate(self._path).folder, self.seated)[0]
        return make_agent({"name": self.seated.agent, **dataclasses.asdict(self.seated.config)}, world)
