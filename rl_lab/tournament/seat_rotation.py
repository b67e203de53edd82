"""This module rotates the entrants of a match through the seats of a world, so that each plays each role equally often.

`store` calls it to make a `Schedule`. A seat is an agent of the world. A role is a group of agents whose names differ
only in a final number, such as predator_0 and predator_1. The functions are pure.
"""

from __future__ import annotations

from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import EnvSpec


def players_per_match(world: EnvSpec, entrants: int) -> int:
    """Return the number of entrants in a match: two where the world has several roles, else the number of agents.

    It is at most `entrants`. Raises UsageError for a world of one agent.
    """
    if len(world.agents) == 1:
        raise UsageError(f"{world.name} has one agent, so there are no opponents; compare agents with evaluate")
    return 2 if len(world.roles) > 1 else min(len(world.agents), entrants)


def seat_rotations(world: EnvSpec, players_per_match: int) -> list[tuple[int, ...]]:
    """Return the assignments of entrants, numbered from 0, to the A seats; a pair has one match for each assignment.

    In a world with several roles, each of the two entrants takes every role in turn, while the other takes all other
    roles. With one role for all agents, entrant (a + k) % players_per_match takes seat a in match k of the pair.
    """
    if len(world.roles) == 1:
        return [
            tuple((seat + leg) % players_per_match for seat in range(len(world.agents)))
            for leg in range(players_per_match)
        ]
    assignments: list[tuple[int, ...]] = []
    for role in world.roles.values():
        for entrant in (0, 1):
            assignments.append(tuple(entrant if seat in role else 1 - entrant for seat in range(len(world.agents))))
    return list(dict.fromkeys(assignments))
