"""Settings of a league: the keys of a scenario's `league:` section.

`experiments.multiagent_config` checks them and makes a `LeagueConfig`, which is not changed afterwards. This module
only declares: the keys with their defaults, their ranges, and the names of earlier versions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LEARNER_KINDS = ("main", "main_exploiter", "league_exploiter")
MAX_LEARNERS = 8  # in one league
SETTING_RANGES = {  # lowest and highest value of a key, both allowed
    "power": (0, 100),
    "self_play": (0, 1),
    "lost_to_share": (0, 1),
    "freeze_win_rate": (0, 1),
    "reset_prob": (0, 1),
    "freeze_every": (1, 2**62),
    "timeout": (0, 2**62),
    "max_opponents": (1, 1024),
    "random_opening_moves": (0, 1000),
}
RENAMED_KEYS = {  # keys of earlier versions, and what they are called now: a hint in the message about an unknown key
    "forgotten": "lost_to_share",
    "beat": "freeze_win_rate",
    "reset": "reset_prob",
    "active": "max_opponents",
    "opening": "random_opening_moves",
}


@dataclass(frozen=True)
class LeagueConfig:
    """Settings of a league: its learners, how their opponents are chosen, and when a snapshot joins the pool.

    Steps are the environment steps of one learner. Shares and probabilities are between 0 and 1.
    """

    selection: str = "pfsp_hard"  # how opponents are chosen from the pool: latest, uniform, pfsp_hard or pfsp_var
    power: float = 2.0  # exponent of pfsp_hard
    self_play: float = 0.35  # share of a main agent's games against the current main agents
    # Share of a main agent's games against snapshots that it beats less than half of the time. While there is no such
    # snapshot, these games are self-play.
    lost_to_share: float = 0.15
    freeze_every: int = 100_000  # steps between two snapshots of a main agent
    timeout: int = 0  # steps after which a snapshot of an exploiter is taken in any case; 0 means twice freeze_every
    freeze_win_rate: float = 0.7  # a snapshot of an exploiter is taken once it beats each of its targets more often
    reset_prob: float = 0.25  # probability that a league exploiter restarts after its snapshot; that of others is fixed
    random_opening_moves: int = 0  # maximum of random moves of all agents before an episode; they are not trained on
    max_opponents: int = 4  # maximum number of different opponents of one learner in one iteration
    members: dict[str, int] = field(default_factory=lambda: {"main": 1})  # number of learners by kind
    anchors: list[dict[str, Any]] = field(default_factory=list)  # agents that are not trained: name, hyperparameters

    def learners(self) -> dict[str, str]:
        """Return the kind of each learner by the learner's name; main agents come first."""
        counts = {kind: self.members.get(kind, 0) for kind in LEARNER_KINDS}
        return {kind if k == 1 else f"{kind}_{k}": kind for kind in LEARNER_KINDS for k in range(1, counts[kind] + 1)}
