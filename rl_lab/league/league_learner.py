"""One learner of a league with its environments, its opponents and its counters; `League` creates and changes it."""

from __future__ import annotations

from dataclasses import dataclass

from rl_lab.core.agent import Learner
from rl_lab.league.opponents import LeagueOpponents
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


@dataclass
class LeagueLearner:
    """A learner of the league with its environments, opponents and counters."""

    name: str
    kind: str  # main, main_exploiter or league_exploiter
    envs: OpponentsWrapper
    opponents: LeagueOpponents  # all players, with the probabilities of meeting them in `envs`
    learner: Learner  # the algorithm that is trained; a restart replaces it
    generation: int = 0  # number of restarts
    past_steps: int = 0  # environment steps of earlier generations
    steps_at_snapshot: int = 0  # `steps` at its last snapshot

    @property
    def steps(self) -> int:
        """Return the environment steps of all its generations."""
        return self.past_steps + self.learner.steps
