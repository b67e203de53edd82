"""This module lets players act in a batch of environments, for evaluation, matches and videos.

A player is an `Agent` object. A seat is one of the agents that a world declares; any player may take it. Messages name
them as users do: "agent".

`MatchRunner.step` writes the players' actions into the batch and steps it. Shapes: N environments, A seats, B = N x A
rows; seat a of environment i is row i * A + a.
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
    """A MatchRunner lets players act in N environments without autoreset.

    The caller chooses which environments begin an episode, and their seeds; the first call must begin an episode in
    every environment. The first player acts in the mode `deterministic`, the others in `opponent_deterministic`, by
    default the same mode.

    `seating`, int64 [N, A], holds the index of the player at each seat. The first player has all seats until
    `assign_seats` gives some of them to the second one. The states that players return (see `agent.Agent`) are carried
    from step to step.
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
        self._states: list[Any] = [None] * len(self.agents)
        self._is_bound = False

    def assign_seats(self, index: int, seats: tuple[int, ...]) -> None:
        """Give the first player these seats of one environment, and the second player, if there is one, the others."""
        self.seating[index] = len(self.agents) - 1
        self.seating[index, seats] = 0

    def bind(self) -> None:
        """Bind the players to the batch, as before the first episode; a player's random numbers start again."""
        self._states = [None] * len(self.agents)
        for agent in self.agents:
            agent.bind(self.envs)
        self._is_bound = True

    def begin(self, mask: Array, seeds: Array) -> None:
        """Begin an episode in the environments where mask, bool [N], is True, with seeds, int64 [N].

        The first call must begin an episode in every environment.

        Raises ValueError where a player returned a state but has no method `begin`.
        """
        self.envs.seed(seeds)
        self.envs.reset(mask)
        if not self._is_bound:
            self.bind()
        else:
            for index, agent in enumerate(self.agents):
                self._states[index] = begin_episodes(agent, self._states[index], mask, self.envs)

    def step(self) -> None:
        """Let the players act, then step the environments. Raises as `write_actions` and `Batch.step` do.

        Players are also asked for actions in environments whose episode has ended, if these have one seat: all rows
        are then passed without a selection, and a step does not use the actions of an ended episode. With several
        seats, only the rows of `acting` are passed, none of which is of an ended episode.
        """
        envs = self.envs
        if len(envs.world.agents) > 1:
            for index, player in enumerate(self.agents):
                rows = np.flatnonzero((self.seating == index) & envs.acting)
                if len(rows):
                    mode = self.opponent_deterministic if index else self.deterministic
                    self._states[index] = write_actions(
                        player, envs, rows, state=self._states[index], deterministic=mode
                    )
        else:
            player, state = self.agents[0], self._states[0]
            self._states[0] = write_actions(player, envs, None, state=state, deterministic=self.deterministic)
        envs.step()


def begin_episodes(player: Agent, state: Any, mask: Array, envs: BatchedEnv) -> Any:
    """Return the state of a player after episodes have begun in the environments where mask, bool [N], is True.

    A state of None, which the player has before its first action, stays None.

    Raises ValueError where the player has returned a state but has no method `begin`.
    """
    if state is None:
        return None
    begin = getattr(player, "begin", None)
    if begin is None:
        raise ValueError(f"agent {player.name} returns a state but has no begin(state, episode_starts)")
    return begin(state, np.repeat(mask, len(envs.world.agents)))


def write_actions(
    player: Agent, envs: BatchedEnv, rows: Array | None, *, state: Any = None, deterministic: bool
) -> Any:
    """Write a player's actions for rows, int64 [R] (None means all rows), into the batch, and return its next state.

    Raises:
        ValueError: the actions have another shape or kind, or the player returned a state for some rows but has no
            method `begin`.
        StuckError: a row that is to act has no legal action. The error is in the world, so the player is not called.
    """
    observations, action_mask = (a.reshape(-1, *a.shape[2:]) for a in (envs.observations, envs.action_mask))
    all_actions = envs.actions.reshape(-1, *envs.actions.shape[2:])
    if rows is not None:
        observations, action_mask = observations[rows], action_mask[rows]
    # A player for environments of one seat need not accept `rows`.
    arguments: dict[str, Any] = {} if rows is None else {"rows": rows}
    if envs.world.has_action_mask:
        check_not_stuck(envs, action_mask, rows)
        arguments["action_mask"] = action_mask
    returned, state = player.act(observations, state=state, deterministic=deterministic, **arguments)
    if rows is not None and state is not None and not hasattr(player, "begin"):
        raise ValueError(f"agent {player.name} returns a state but has no begin(state, episode_starts)")
    actions, kinds = np.asarray(returned), "iu" if all_actions.dtype.kind == "i" else "fiu"
    # numpy's assignment would broadcast one action to all rows, and truncate a fractional action, without an error.
    expected = (len(observations), *all_actions.shape[1:])
    if actions.shape != expected or actions.dtype.kind not in kinds:
        raise ValueError(
            f"agent {player.name} returned actions {actions.dtype} {list(actions.shape)}, "
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
    # In an environment of one seat, `acting` may stay 1 after the episode, whose last position has no legal action.
    acting = envs.acting & ~envs.done[:, None]
    row_numbers = np.arange(len(action_mask)) if rows is None else rows
    stuck = row_numbers[~has_legal_action & acting.reshape(-1)[row_numbers]]
    if len(stuck):
        index, seat = divmod(int(stuck[0]), acting.shape[1])
        raise StuckError(envs.world.name, envs.world.agents[seat], envs.elapsed_steps(index))


def seat_rotation(world: EnvSpec, role: str = "") -> list[tuple[int, ...]]:
    """Return the seats that a player takes in turn from episode to episode: those of `role`, or of each role.

    Where all seats have the same role, each of them is an entry of its own. An entry holds indices of seats.

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
