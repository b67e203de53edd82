"""A league: learners of three roles that play each other and a pool of their earlier snapshots.

Each learner has environments of its own, in which it plays one role against players of the league. The learners are
trained in turn, one iteration each. Any object that implements `Learner` can take part. A league is a `Learner` too,
and is saved and restored like one.

Source: Vinyals et al. 2019. The figures that are not the paper's are marked in `meetings` and `matchmaking`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent, Learner, Rollout, StateDict
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_streams import GeneratorStream
from rl_lab.league.batched_policies import BatchedPolicies, Layers, layers_of
from rl_lab.league.config import LeagueConfig
from rl_lab.league.matchmaking import WinTable
from rl_lab.league.meetings import PlayerIndex, matchmaking_probs, should_freeze
from rl_lab.league.metrics import report
from rl_lab.league.opponents import LeagueOpponents
from rl_lab.league.snapshots import Member, Pool
from rl_lab.multiagent.multi_policy import joined, split
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


@dataclass
class LeagueLearner:
    """A learner of the league with its environments and opponents."""

    name: str
    role: str
    envs: OpponentsWrapper
    opponents: LeagueOpponents
    learner: Learner
    generation: int = 0  # number of restarts
    past_steps: int = 0  # environment steps of earlier generations
    steps_at_snapshot: int = 0  # `steps` at its last snapshot

    @property
    def steps(self) -> int:
        """Return the environment steps of all its generations."""
        return self.past_steps + self.learner.steps


class League:
    """A learner that consists of the learners of a league.

    Every learner numbers its opponents in the same way: learners, then anchors, then the snapshots of the pool.

    Args:
        config: the settings of the league.
        make_learner: `make_learner(envs, budget, seed)` returns a learner for these environments.
        load_agent: `load_agent(saved)` returns the agent that a learner saved.
        make_envs: `make_envs(k, opponents)` returns new environments for learner k, with these opponents.
        make_anchors: `make_anchors()` returns new agents that are not trained.
        settings: the hyperparameters of the learners.
        budget: environment steps of all learners together.
        seed: the seed of the learners, of the choice of opponents, and of restarts.
    """

    def __init__(
        self,
        config: LeagueConfig,
        make_learner: Callable[[BatchedEnv, int, int], Learner],
        load_agent: Callable[[StateDict], Agent],
        make_envs: Callable[[int, LeagueOpponents], OpponentsWrapper],
        make_anchors: Callable[[], Sequence[Agent]],
        *,
        settings: Any,
        budget: int,
        seed: int,
    ) -> None:
        roles = config.learners()
        self.config, self.settings, self.seed = config, settings, seed
        self._make_learner, self._load_agent = make_learner, load_agent
        self._budget = -(-budget // len(roles))  # environment steps of each learner
        self.pool, self.table, self.iteration = Pool(), WinTable(len(roles)), 0
        # The policies of the learners and of the snapshots, evaluated together; None where `BatchedPolicies` does not
        # support them, and each opponent is an agent of its own.
        self.actors: BatchedPolicies | None = None
        self.players: list[LeagueLearner] = []
        self._past_seconds: dict[str, float] = {}  # time by activity, of earlier generations
        for index, (name, role) in enumerate(roles.items()):
            anchors = make_anchors()
            opponents = LeagueOpponents([*[None] * len(roles), *anchors])
            opponents.probs[0] = 1.0  # the first episodes begin before opponents are chosen
            self.anchor_names = [agent.name for agent in anchors]
            envs = make_envs(index, opponents)
            learner = make_learner(envs, self._budget, seed + index)
            self.players.append(LeagueLearner(name, role, envs, opponents, learner))
        self._first_member = len(roles) + len(self.anchor_names)  # opponent index of the pool's first snapshot
        first = self.players[0]
        if layers_of(first.learner.save_agent().tensors, settings, first.envs.world) is not None:
            self.actors = BatchedPolicies(settings.activation)
        for player in self.players:
            player.opponents.actors = self.actors
        self._publish_learners()
        self.table.grow(self._first_member)

    def set_run_dir(self, run: Path) -> None:
        """Write the snapshots of the pool to this run's folder."""
        self.pool.run = run

    @property
    def backend(self) -> str:
        """See `Learner.backend`."""
        return "; ".join(dict.fromkeys(player.learner.backend for player in self.players))

    @property
    def steps(self) -> int:
        """Return the environment steps of all learners, in all generations."""
        return sum(player.steps for player in self.players)

    @property
    def rollout(self) -> Rollout:
        """Return what all learners together collect before each update."""
        rollouts = [player.learner.rollout for player in self.players]
        return Rollout(sum(each.steps for each in rollouts), rollouts[0].setting, len(rollouts))

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time of all learners by activity."""
        seconds = dict(self._past_seconds)
        for player in self.players:
            for key, value in player.learner.seconds.items():
                seconds[key] = seconds.get(key, 0.0) + value
        return seconds

    def train_iteration(self) -> dict[str, float]:
        """Run one iteration of every learner, then freeze those that are due; return metrics by learner and name.

        Where learners are each other's opponents, they play as they were at the start of the iteration.
        """
        self._publish_learners()
        metrics: dict[str, float] = {}
        for index, player in enumerate(self.players):
            win_rates = self.table.win_rates(index)
            generator = np.random.default_rng((self.seed, self.iteration, index, GeneratorStream.MATCHMAKING))
            player.opponents.probs = matchmaking_probs(
                player.role, win_rates, self._player_index(), self.config, generator
            )
            values = player.learner.train_iteration()
            results = player.envs.pop_loss_draw_win()
            self.table.add(index, results.sum(axis=1))
            metrics |= {f"{player.name}/{key}": value for key, value in values.items()}
            names = [*(other.name for other in self.players), *self.anchor_names]
            scores = report(player.envs, self.table, index, names, results)
            metrics |= {f"{player.name}/{key}": value for key, value in scores.items()}
        for index, player in enumerate(self.players):
            steps, win_rates = player.steps - player.steps_at_snapshot, self.table.win_rates(index)
            if should_freeze(player.role, steps, win_rates, self._player_index(), self.config):
                self._freeze(index)
        self.iteration += 1
        metrics["league/members"] = len(self.pool.members)
        main = f"{self.players[0].name}/rollout/return"
        return {**metrics, "rollout/return": metrics[main]} if main in metrics else metrics

    def _publish_learners(self) -> None:
        """Update the learners among the opponents of all learners to their current parameters."""
        for index, player in enumerate(self.players):  # a learner's index among the policies and the opponents alike
            if self.actors is not None:
                self.actors.put(index, self._layers(player.learner.save_agent()))
                continue
            saved = player.learner.save_agent()  # a copy, because the learner is trained while others play against it
            for other in self.players:
                other.opponents.replace(index, self._load_agent(saved))

    def _layers(self, saved: StateDict) -> Layers:
        layers = layers_of(saved.tensors, self.settings, self.players[0].envs.world)
        if layers is None:
            raise ValueError("the policies of a league must have one architecture")
        return layers

    def _player_index(self) -> PlayerIndex:
        roles, first = {player.name: player.role for player in self.players}, self._first_member
        total = first + len(self.pool.members)
        member_roles = [roles[member.name] for member in self.pool.members]
        return PlayerIndex(
            total,
            mains=[k for k, player in enumerate(self.players) if player.role == "main"],
            pool=range(len(self.players), total),
            frozen_mains=[first + k for k, role in enumerate(member_roles) if role == "main"],
            frozen_main_exploiters=[first + k for k, role in enumerate(member_roles) if role == "main_exploiter"],
        )

    def _freeze(self, index: int) -> None:
        """Add a snapshot of a learner to the pool, and restart an exploiter with its role's probability."""
        player = self.players[index]
        self.pool.freeze(player.name, self.steps, player.learner.save_agent())
        self._add_opponent(self.pool.members[-1])
        player.steps_at_snapshot = player.steps
        reset_prob = {"main": 0.0, "main_exploiter": 1.0, "league_exploiter": self.config.reset_prob}[player.role]
        if (
            np.random.default_rng((self.seed, self.iteration, index, GeneratorStream.EXPLOITER_RESET)).random()
            < reset_prob
        ):
            for key, value in player.learner.seconds.items():
                self._past_seconds[key] = self._past_seconds.get(key, 0.0) + value
            player.past_steps = player.steps
            self._restart(index, player.generation + 1)
            self.table.forget(index)

    def _restart(self, index: int, generation: int) -> None:
        """Replace a player's learner by a new one, whose seed follows from the generation."""
        player = self.players[index]
        player.generation, seed = generation, (self.seed + index + len(self.players) * generation) % 2**31
        player.learner.close()
        player.learner = self._make_learner(player.envs, self._budget, seed)

    def _add_opponent(self, member: Member) -> None:
        """Add a snapshot to the opponents of all learners."""
        if self.actors is not None:
            # The anchors, which are opponents too, have no policy in `actors`.
            policy_index = len(self.players) + self.pool.members.index(member)
            self.actors.put(policy_index, self._layers(member.saved))
        for player in self.players:
            player.opponents.add(None if self.actors is not None else self._load_agent(member.saved))
        self.table.grow(self._first_member + len(self.pool.members))

    def agent(self) -> Agent:
        """Return the current first main agent."""
        return self.players[0].learner.agent()

    def save_agent(self) -> StateDict:
        """Return the state of the first main agent."""
        return self.players[0].learner.save_agent()

    def export_state(self) -> StateDict:
        """Return the state with which training of the exported first main agent can continue."""
        learner: Any = self.players[0].learner
        return learner.export_state() if hasattr(learner, "export_state") else StateDict({}, {})

    def save(self) -> StateDict:
        """Return the state of every learner, the table of results, and a list of the pool's snapshots.

        The snapshots themselves have files of their own.
        """
        learners = joined({player.name: player.learner.save() for player in self.players})
        counts = {p.name: [p.generation, p.past_steps, p.steps_at_snapshot] for p in self.players}
        state = {"learners": learners.state, "counts": counts, "members": self.pool.entries()}
        tensors = {**learners.tensors, "league": {"games": self.table.games}}
        return StateDict(tensors, {**state, "iteration": self.iteration})

    def reload_snapshots(self, state: Any) -> None:
        """Load the pool's snapshots, before the environments are restored. Raises ValueError where one is missing.

        Learners that had restarted are made again, because what a learner draws from its seed at the start is not part
        of its state.
        """
        self.pool.reload_snapshots(state.get("members"), [player.name for player in self.players])
        for player in self.players:
            player.opponents.truncate(self._first_member)
        members, self.pool.members = self.pool.members, []
        for member in members:
            self.pool.members.append(member)
            self._add_opponent(member)
        for index, player in enumerate(self.players):
            generation = state["counts"][player.name][0]
            if not 0 <= _int_or_minus_one(generation) < 2**31:
                raise ValueError("a counter of the league is not a non-negative integer")
            if generation != player.generation:
                self._restart(index, generation)

    def restore(self, saved: StateDict) -> None:
        """Restore what `save` returned; the pool and the environments have been restored already.

        Raises ValueError for counters or a table of results that do not fit.
        """
        state, games = saved.state, saved.tensors["league"]["games"]
        counters = [state["iteration"], *(n for player in self.players for n in state["counts"][player.name])]
        if not all(0 <= _int_or_minus_one(n) < 2**62 for n in counters):
            raise ValueError("a counter of the league is not a non-negative integer")
        shape = (len(self.players), self._first_member + len(self.pool.members), 3)
        if games.shape != shape or games.dtype != np.float64 or not (np.isfinite(games) & (games >= 0)).all():
            raise ValueError("the league's table of results does not fit")
        self.iteration, self.table.games = state["iteration"], games
        parts = split(StateDict(saved.tensors, state["learners"]), [player.name for player in self.players])
        for player in self.players:
            _, player.past_steps, player.steps_at_snapshot = state["counts"][player.name]
            player.learner.restore(parts[player.name])

    def close(self) -> None:
        """Close all learners."""
        for player in self.players:
            player.learner.close()


def _int_or_minus_one(value: Any) -> int:
    """Return an int unchanged, and -1 for any other value."""
    return value if type(value) is int else -1
