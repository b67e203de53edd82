"""A league's settings, as a recipe gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ROLES = ("main", "main_exploiter", "league_exploiter")
MOST = 8  # learners
RANGES = {
    **{"power": (0, 100), "self_play": (0, 1), "forgotten": (0, 1), "beat": (0, 1), "reset": (0, 1)},
    **{"freeze_every": (1, 2**62), "timeout": (0, 2**62), "active": (1, 1024), "opening": (0, 1000)},
}


@dataclass(frozen=True)
class LeagueConfig:
    """Who is in it, whom each plays, and when they are frozen. Steps are a learner's own."""

    selection: str = "pfsp_hard"  # among the pool: latest, uniform, pfsp_hard or pfsp_var
    power: float = 2.0  # of pfsp_hard
    self_play: float = 0.35  # of a main agent's games, against the main agents as they are now
    forgotten: float = 0.15  # of a main agent's games, against whom it no longer beats; self-play while there is none
    freeze_every: int = 100_000  # a copy of a main agent joins the pool
    timeout: int = 0  # an exploiter joins after so many even without success; 0: twice freeze_every
    beat: float = 0.7  # an exploiter joins once its chance to win exceeds this against all whom it is to beat
    reset: float = 0.25  # how likely a league exploiter then begins anew; a main exploiter always does
    opening: int = 0  # random moves at the start of an episode, at most; of everybody, and no experience
    active: int = 4  # opponents at a time in one learner's worlds
    members: dict[str, int] = field(default_factory=lambda: {"main": 1})  # learners of each role
    anchors: list[dict[str, Any]] = field(default_factory=list)  # agents that need no training: names, hyperparameters

    def learners(self) -> dict[str, str]:
        """Return each learner's role by its name; main agents come first."""
        counts = {role: self.members.get(role, 0) for role in ROLES}
        return {role if k == 1 else f"{role}_{k}": role for role in ROLES for k in range(1, counts[role] + 1)}
