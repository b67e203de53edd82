"""Who sits where: the legs of a pair, in which everybody has every part of the game."""

from __future__ import annotations

from ..batch import WorldInfo
from ..names import UsageError


def meeting(world: WorldInfo, entrants: int) -> int:
    """Return how many entrants meet in a match: two where the world has roles, else as many as there are seats.

    Fewer where there are not so many. Raises UsageError for a world of one agent.
    """
    if len(world.agents) == 1:
        raise UsageError(f"{world.name} has one agent: nobody can be its opponent; compare agents with evaluate")
    return 2 if len(world.roles) > 1 else min(len(world.agents), entrants)


def legs(world: WorldInfo, met: int) -> list[tuple[int, ...]]:
    """Return the ways in which `met` entrants, numbered from 0, take the A seats; a pair has a match for each.

    Of two entrants in a world of roles each has every role in turn, against the other in all other roles: twice, with
    two roles. Where all agents have one role, seat a is entrant (a + leg) % met's.
    """
    if len(world.roles) == 1:
        return [tuple((seat + leg) % met for seat in range(len(world.agents))) for leg in range(met)]
    found: list[tuple[int, ...]] = []
    for role in world.roles.values():
        for alone in (0, 1):
            found.append(tuple(alone if seat in role else 1 - alone for seat in range(len(world.agents))))
    return list(dict.fromkeys(found))
