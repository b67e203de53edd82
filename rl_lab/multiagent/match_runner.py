"""This module lets agents act in a batch of environments, for evaluation, matches and videos.

`MatchRunner.step` writes the agents' actions into the batch and steps it. Shapes: N environments, A agents, B = N x A
rows; agent a of environment i is row i * A + a. A seat is the index of an agent in a world, which any of the players
(`Agent` objects) may take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.core.errors import nearest
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array
from rl_lab.core.world_errors import StuckError


class MatchRunner:
    """A MatchRunner lets agents act in N environments without autoreset.

    The caller chooses which environments begin an episode, and their seeds; the first call must begin an episode in
    every environment. The first agent acts in the mode `deterministic`, the others in `opponent_deterministic`, by
    default the same mode.

    `seating`, int64 [N, A], holds the index of the agent at each seat. The first agent has all seats until
    `assign_seats` gives some of them to the second one. An agent whose `act` returns a state (see `Agent.begin`) can
    only play environments of one agent.
    """

    def __init__(
        self,
        agents: Agent | Sequence[Agent],
        envs: BatchedEnv,
        *,
        deterministic: bool,
        opponent_deterministic: bool | None = None,
    ) -> None:
        self.agents: list[Agent] = list(agents) if isinstance(agents, Sequence) else [agents]
        self.envs, self.deterministic = envs, deterministic
        self.opponent_deterministic = deterministic if opponent_deterministic is None else opponent_deterministic
        self.seating = np.zeros(envs.rewards.shape, np.int64)
        self._state: Any = None
        self._is_bound = False

    def assign_seats(self, index: int, seats: tuple[int, ...]) -> None:
        """Give the first agent these seats of one environment, and the second agent, if there is one, the others."""
        self.seating[index] = len(self.agents) - 1
        self.seating[index, seats] = 0

    def bind(self) -> None:
        """Bind the agents to the batch, as before the first episode; an agent's random numbers start again."""
        for agent in self.agents:
            agent.bind(self.envs)
        self._is_bound = True

    def begin(self, mask: Array, seeds: Array) -> None:
        """Begin an episode in the environments where mask, bool [N], is True, with seeds, int64 [N].

        The first call must begin an episode in every environment.

        Raises ValueError where an agent returned a state but has no method `begin`.
        """
        self.envs.seed(seeds)
        self.envs.reset(mask)
        if not self._is_bound:
            self.bind()
        elif self._state is not None:
            begin = getattr(self.agents[0], "begin", None)
            if begin is None:
                raise ValueError(f"agent {self.agents[0].name} returns a state but has no begin(state, fresh)")
            self._state = begin(self._state, mask)

    def step(self) -> None:
        """Let the agents act, then step the environments. Raises as `write_actions` and `Batch.step` do."""
        envs = self.envs
        if len(envs.world.agents) > 1:
            for index, agent in enumerate(self.agents):
                rows = np.flatnonzero((self.seating == index) & envs.acting)
                if len(rows):
                    mode = self.opponent_deterministic if index else self.deterministic
                    write_actions(agent, envs, rows, deterministic=mode)
        else:
            self._state = write_actions(self.agents[0], envs, None, state=self._state, deterministic=self.deterministic)
        envs.step()


def write_actions(agent: Agent, envs: BatchedEnv, rows: Array | None, *, state: Any = None, deterministic: bool) -> Any:
    """Write an agent's actions for rows, int64 [R] (None means all rows), into the batch, and return its next state.

    Raises:
        ValueError: the actions have another shape or kind, or the agent returned a state for a part of the rows.
        StuckError: a row that is to act has no legal action. The error is in the world, so the agent is not called.
    """
    observations, action_mask = (a.reshape(-1, *a.shape[2:]) for a in (envs.observations, envs.action_mask))
    all_actions = envs.actions.reshape(-1, *envs.actions.shape[2:])
    if rows is not None:
        observations, action_mask = observations[rows], action_mask[rows]
    # An agent for environments of one agent need not accept `rows`.
    arguments: dict[str, Any] = {} if rows is None else {"rows": rows}
    if envs.world.has_action_mask:
        check_not_stuck(envs, action_mask, rows)
        arguments["action_mask"] = action_mask
    returned, state = agent.act(observations, state=state, deterministic=deterministic, **arguments)
    if rows is not None and state is not None:
        raise ValueError(f"agent {agent.name} keeps a state, which worlds of several agents do not support")
    actions, kinds = np.asarray(returned), "iu" if all_actions.dtype.kind == "i" else "fiu"
    # numpy's assignment would broadcast one action to all rows, and truncate a fractional action, without an error.
    expected = (len(observations), *all_actions.shape[1:])
    if actions.shape != expected or actions.dtype.kind not in kinds:
        raise ValueError(
            f"agent {agent.name} returned actions {actions.dtype} {list(actions.shape)}, "
            f"{envs.world.name} takes {all_actions.dtype} {list(expected)}"
        )
    if rows is None:
        all_actions[...] = actions
    else:
        all_actions[rows] = actions
    return state


def check_not_stuck(envs: BatchedEnv, action_mask: Array, rows: Array | None) -> None:
    """Raise StuckError where one of these rows, int64 [R] (None means all rows), is to act and has no legal action."""
    has_legal_action = action_mask.any(axis=1)
    if has_legal_action.all():
        return
    acting = envs.acting & ~envs.done[:, None]
    row_numbers = np.arange(len(action_mask)) if rows is None else rows
    stuck = row_numbers[~has_legal_action & acting.reshape(-1)[row_numbers]]
    if len(stuck):
        index, agent = divmod(int(stuck[0]), acting.shape[1])
        raise StuckError(envs.world.name, envs.world.agents[agent], envs.elapsed_steps(index))


def seat_rotation(world: EnvSpec, role: str = "") -> list[tuple[int, ...]]:
    """Return the seats that an agent takes in turn from episode to episode: those of `role`, or of each role.

    Where all agents have the same role, each seat is an entry of its own. An entry holds indices of agents.

    Raises ValueError, with the nearest role, for an unknown role, and for a role that leaves no seat to an opponent.
    """
    roles = world.roles
    if role and role not in roles:
        raise ValueError(f"{world.name} has no role {role!r}; {nearest(role, roles)}")
    if role and len(roles) == 1:
        raise ValueError(f"{world.name}: every agent is a {role}, none is left for an opponent; leave role= out")
    if len(roles) == 1:
        return [(seat,) for seat in next(iter(roles.values()))]
    return [roles[role]] if role else list(roles.values())
