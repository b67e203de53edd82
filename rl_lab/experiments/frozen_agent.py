"""Trained agents that do not learn any more: opponents of a scenario and entrants of a tournament.

A `FrozenAgentRef` names such an agent by its path and by a hash of what decides its actions. It computes the hash, and
it loads the agent after comparing the hash, so that a resumed run or tournament never plays against another agent than
before. Files are read, and none is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from rl_lab.adapters import make
from rl_lab.core import checkpoint
from rl_lab.core.agent import Agent
from rl_lab.core.checkpoint import Tensors
from rl_lab.core.content_hash import content_hash
from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import EnvSpec
from rl_lab.experiments.agent_loading import build_agent, read_agent
from rl_lab.experiments.checkpoint_lookup import locate, step_number
from rl_lab.experiments.multiagent_config import AgentReference
from rl_lab.experiments.scenario import Scenario
from rl_lab.league.average_policy import AveragePolicyAgent
from rl_lab.league.batched_policies import SequentialPolicies, layers_of, stack_policies
from rl_lab.league.opponents import opponents_of
from rl_lab.league.snapshots import POOL_FOLDER
from rl_lab.multiagent.opponent_mixture import OpponentMixture


@dataclasses.dataclass(frozen=True)
class FrozenAgentRef(AgentReference):
    """An `AgentReference` whose agent can be hashed and loaded."""

    def with_content_hash(self) -> FrozenAgentRef:
        """Return the reference with the SHA-256 of what decides the agent's actions: its parameters and settings.

        The same agent has the same hash as an opponent and as an entrant of a tournament, and in an agent's folder and
        a whole-state checkpoint.

        Raises:
            UsageError, CheckpointError: there is no such agent.
        """
        return dataclasses.replace(self, sha256=self._content_hash(*self._checkpoints()))

    def agent(self, world: EnvSpec) -> Agent:
        """Return the agent. Raises UsageError where its content has changed, or it was trained in another world."""
        scenario, checkpoints = self._load_verified(world)
        return (
            self._build_sampling_agent(world, scenario, checkpoints)
            if self.average
            else build_agent(checkpoints[0], scenario)
        )

    def sampling_agent(self, world: EnvSpec) -> Agent:
        """Return the agent, or the average policy, as one that samples its actions.

        Raises as `agent`, and UsageError where the agent does not give probabilities of actions.
        """
        return self._build_sampling_agent(world, *self._load_verified(world))

    def opponents(self, world: EnvSpec) -> OpponentMixture:
        """Return the agent as a learner's opponent, which samples its actions. Raises as `agent`."""
        scenario, checkpoints = self._load_verified(world)
        if scenario.policies:
            return OpponentMixture([build_agent(checkpoints[0], scenario)])
        agent = self._build_sampling_agent(world, scenario, checkpoints)
        return opponents_of(agent) if isinstance(agent, AveragePolicyAgent) else OpponentMixture([agent])

    def _checkpoints(self) -> tuple[Scenario, list[checkpoint.Checkpoint]]:
        """Return the scenario of the agent's training, and its checkpoint or those of a league's snapshots."""
        location = locate(self.path)
        scenario = dataclasses.replace(location.run.scenario(), device="cpu")
        if not self.average:
            return scenario, [read_agent(location.folder, scenario)]
        # Without a member's name, it is the first main agent's average.
        is_run = location.folder == location.run.agent
        folder = location.run.path / POOL_FOLDER / "main" if is_run else location.folder
        paths = [file.parent for file in folder.glob("step-*/manifest.json")]
        steps = {path: step_number(path.name.removeprefix("step-")) for path in paths}
        snapshots = sorted((step, path) for path, step in steps.items() if step is not None)
        if not snapshots:
            raise UsageError(f"{self.path} has no average: there is no snapshot of a league in {folder}")
        return scenario, [read_agent(path, scenario) for _, path in snapshots]

    def _content_hash(self, scenario: Scenario, checkpoints: list[checkpoint.Checkpoint]) -> str:
        parts = [scenario.agent, repr(scenario.config), repr(scenario.policies), str(self.average)]
        if scenario.backbone is not None:
            parts.append(repr(scenario.backbone.spec))
        parts += [content_hash(_deciding_tensors(each.tensors)) for each in checkpoints]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _load_verified(self, world: EnvSpec) -> tuple[Scenario, list[checkpoint.Checkpoint]]:
        scenario, checkpoints = self._checkpoints()
        if self.sha256 and (now := self._content_hash(scenario, checkpoints)) != self.sha256:
            raise UsageError(
                f"{self.path} is not the agent that it was: SHA-256 {now[:12]}..., not {self.sha256[:12]}..."
            )
        if not make.is_world(scenario.world, world):
            raise UsageError(f"{self.path} was trained in {scenario.world}, not in {world.name}")
        return scenario, checkpoints

    def _build_sampling_agent(
        self, world: EnvSpec, scenario: Scenario, checkpoints: list[checkpoint.Checkpoint]
    ) -> Agent:
        name = f"{scenario.agent}-average" if self.average else scenario.agent
        # Where all policies are networks of layers, one batched forward pass evaluates them; else one after the other
        # acts.
        layers = [layers_of(each.tensors, scenario.config, world) for each in checkpoints]
        batchable = [network for network in layers if network is not None]
        if len(batchable) == len(checkpoints):
            return AveragePolicyAgent(name, stack_policies(scenario.config.activation, batchable), len(checkpoints))
        agents = [build_agent(each, scenario) for each in checkpoints]
        if hasattr(agents[0], "always_samples"):  # its probabilities depend on what it remembers
            agents[0].always_samples = True
            return agents[0]
        if not all(hasattr(agent, "probabilities") for agent in agents):
            raise UsageError(f"{self.path}: {name} does not tell how likely its actions are")
        return AveragePolicyAgent(name, SequentialPolicies(agents), len(checkpoints))


def frozen_agent(node: dict[str, Any]) -> FrozenAgentRef:
    """Return the reference that a scenario's `opponent` describes; it is a mapping with a path."""
    return FrozenAgentRef(str(node["path"]), bool(node["average"]), str(node["sha256"]))


def _deciding_tensors(tensors: Mapping[str, Tensors]) -> Mapping[str, Tensors]:
    """Return the tensors that decide an agent's actions: parameters of policies, and statistics of observations.

    What else a checkpoint has depends on where the agent is kept: the optimizer's moments, for example. An agent of
    another kind, a scripted one for example, has no policy under that name and is taken as a whole.
    """
    deciding: dict[str, Tensors] = {}
    for member, arrays in tensors.items():
        kind = member.rpartition(".")[2]  # NAME.policy, where several policies are trained
        if kind in ("policy", "encoder"):
            deciding[member] = arrays
        elif kind == "normalizer":  # the statistics of rewards do not affect actions
            statistics = {name.removeprefix("observation_"): array for name, array in arrays.items()}
            deciding[member] = {name: statistics[name] for name in ("mean", "var") if name in statistics}
    return deciding if any(member.rpartition(".")[2] == "policy" for member in deciding) else tensors
