"""The opponents of a learner of a league: the current learners, the anchors, and the snapshots of the pool.

`OpponentsWrapper` asks for their actions and writes them to its batch. `League` adds opponents and sets the
probabilities of meeting them. Policies of one architecture are evaluated together, by `batched_policies`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_actions import sample_categorical
from rl_lab.core.world import Array
from rl_lab.league.average_policy import AveragePolicyAgent
from rl_lab.league.batched_policies import BatchedPolicies, RowRandom, SequentialPolicies
from rl_lab.multiagent.opponent_mixture import OpponentMixture


class LeagueOpponents(OpponentMixture):
    """An `OpponentMixture` in which some opponents are policies of `batched_policies`, which are evaluated together.

    The k-th None in `agents` stands for policy k of `batched_policies`. While `batched_policies` is None, these
    opponents take uniformly random legal actions. Actions are sampled with random numbers of each row's own, see
    `RowRandom`.
    """

    batched_policies: BatchedPolicies | SequentialPolicies | None = None
    _envs: BatchedEnv | None = None
    _row_random: RowRandom

    def __init__(self, agents: Sequence[Agent | None]) -> None:
        super().__init__([])
        # The index of each opponent's policy in `batched_policies`, -1 for an agent.
        self._policy_index = np.zeros(0, np.int64)
        for agent in agents:
            self.add(agent)

    def add(self, agent: Agent | None) -> None:
        """Add an opponent with probability 0; None stands for the next policy of `batched_policies`."""
        policy_index = int((self._policy_index >= 0).sum()) if agent is None else -1
        self._policy_index = np.append(self._policy_index, policy_index)
        self.agents.append(_BatchedPlaceholder() if agent is None else agent)
        self.probs = np.append(self.probs, 0.0)
        if agent is not None and self._envs is not None:
            agent.bind(self._envs)

    def replace(self, index: int, agent: Agent) -> None:
        """Replace the opponent with this index by an agent."""
        self.agents[index], self._policy_index[index] = agent, -1
        if self._envs is not None:
            agent.bind(self._envs)

    def truncate(self, count: int) -> None:
        """Remove all opponents except the first `count`."""
        self.agents, self._policy_index, self.probs = (
            self.agents[:count],
            self._policy_index[:count],
            self.probs[:count],
        )

    def seed(self, seed: int, first: int, envs: BatchedEnv) -> None:
        """See `OpponentMixture.seed`."""
        self._row_random = RowRandom(seed, first, *envs.acting.shape)

    def bind(self, envs: BatchedEnv) -> None:
        """See `OpponentMixture.bind`."""
        self._envs = envs
        super().bind(envs)

    def write_actions(self, envs: BatchedEnv, rows: Array, opponents: Array, *, deterministic: bool) -> None:
        """See `OpponentMixture.write_actions`."""
        is_batched = self._policy_index[opponents] >= 0
        if is_batched.any():
            batched_rows, size = rows[is_batched], envs.acting.size
            action_mask = envs.action_mask.reshape(size, -1)[batched_rows] if envs.world.has_action_mask else None
            observations = envs.observations.reshape(size, *envs.observations.shape[2:])[batched_rows]
            if self.batched_policies is not None:
                policy_index = self._policy_index[opponents[is_batched]]
                probs = self.batched_policies.probabilities(observations, policy_index, action_mask)
            else:
                count = int(envs.world.action.n)  # type: ignore[union-attr]  # a league's actions are discrete
                legal = np.ones((len(batched_rows), count)) if action_mask is None else action_mask.astype(np.float64)
                probs = legal / legal.sum(axis=1, keepdims=True)
            if deterministic:
                actions = probs.argmax(axis=1)
            else:
                actions = sample_categorical(probs, self._row_random.sample(batched_rows))
            envs.actions.reshape(size)[batched_rows] = actions
        if not is_batched.all():
            super().write_actions(envs, rows[~is_batched], opponents[~is_batched], deterministic=deterministic)

    def snapshot(self) -> dict[str, Array]:
        """See `OpponentMixture.snapshot`; the number of draws for each row is added."""
        return {**super().snapshot(), "draws": self._row_random.counters.copy()}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """See `OpponentMixture.restore`."""
        super().restore(snapshot)
        saved, counters = snapshot.get("draws"), self._row_random.counters
        if saved is None or saved.shape != counters.shape or saved.dtype != counters.dtype:
            raise ValueError(
                "the snapshot does not fit: the opponents' random counters are missing or of another shape"
            )
        counters[...] = saved


class _BatchedPlaceholder:
    """Takes the place of a policy of `batched_policies` in the list of agents; it does not act itself."""

    name = "actor"

    def bind(self, envs: BatchedEnv) -> None:
        """Do nothing: the policies of `batched_policies` need no batch."""

    def act(self, observations: Array, **_: Any) -> tuple[Array, Any]:
        raise NotImplementedError("policies of a league are evaluated together")


def opponents_of(agent: AveragePolicyAgent) -> LeagueOpponents:
    """Return an agent's policies as opponents; each episode is played against one of them, with equal probability."""
    opponents = LeagueOpponents([None] * agent.num_policies)
    opponents.batched_policies, opponents.probs[:] = agent.policies, 1.0 / agent.num_policies
    return opponents
