"""A league: learners of three kinds that play each other and a pool of their earlier snapshots.

The players of a league have the numbers 0 to M - 1: first the L learners, then the anchors, which are agents that are
not trained, then the snapshots in the order in which they were taken. Anchors and snapshots are the pool.

Each learner has environments of its own, in which it plays against the others. The learners are trained in turn, one
iteration each. Any object that implements `Learner` can take part. A league is a `Learner` too, and is saved and
restored like one. A role is one of the world, the kinds are AlphaStar's: main agents and two kinds of exploiters.

The figures that are not the paper's are marked in `meetings` and `matchmaking`.

Source: Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement learning".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent, Learner, Rollout, StateDict
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_streams import GeneratorStream
from rl_lab.league.batched_policies import BatchedPolicies, Layers, layers_of
from rl_lab.league.config import LeagueConfig
from rl_lab.league.league_learner import LeagueLearner
from rl_lab.league.matchmaking import WinTable
from rl_lab.league.meetings import PlayersByKind, matchmaking_probs, reset_prob, should_freeze
from rl_lab.league.metrics import report
from rl_lab.league.opponents import LeagueOpponents
from rl_lab.league.snapshots import Member, Pool
from rl_lab.multiagent.multi_policy import joined, split
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

_SEEDS = 2**31  # seeds of restarted learners are below it: NumPy's and torch's generators accept them
# Limits of the counters in a checkpoint, which no training reaches.
_MOST_RESTARTS, _MOST_STEPS = 2**31, 2**62


class League:
    """A learner that consists of the learners of a league.

    Every learner has all players as its opponents, by their numbers.

    Args:
        config: the settings of the league.
        make_learner: `make_learner(envs, budget, seed)` returns a learner for these environments, to be trained for
            `budget` environment steps.
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
        kinds = config.learners()
        self.config, self.settings, self.seed = config, settings, seed
        self._make_learner, self._load_agent = make_learner, load_agent
        self._learner_budget = -(-budget // len(kinds))  # environment steps of each learner
        self.pool, self.table, self.iteration = Pool(), WinTable(len(kinds)), 0
        # The policies of the learners and of the snapshots, evaluated together; None where `BatchedPolicies` does not
        # support them, and each opponent is an agent of its own.
        self.actors: BatchedPolicies | None = None
        self.learners: list[LeagueLearner] = []
        self._past_seconds: dict[str, float] = {}  # time by activity, of earlier generations
        for index, (name, kind) in enumerate(kinds.items()):
            anchors = make_anchors()
            opponents = LeagueOpponents([*[None] * len(kinds), *anchors])
            # The environments' first episodes begin now, before opponents are chosen: against the first main agent.
            opponents.probs[0] = 1.0
            self.anchor_names = [agent.name for agent in anchors]
            envs = make_envs(index, opponents)
            learner = make_learner(envs, self._learner_budget, seed + index)
            self.learners.append(LeagueLearner(name, kind, envs, opponents, learner))
        self._first_snapshot = len(kinds) + len(self.anchor_names)  # the player number of the first snapshot
        first = self.learners[0]
        if layers_of(first.learner.save_agent().tensors, settings, first.envs.world) is not None:
            self.actors = BatchedPolicies(settings.activation)
        for each in self.learners:
            each.opponents.actors = self.actors
        self._publish_learners()
        self.table.grow(self._first_snapshot)

    def set_run_dir(self, run: Path) -> None:
        """Write the snapshots of the pool to this run's folder."""
        self.pool.run = run

    @property
    def backend(self) -> str:
        """See `Learner.backend`."""
        return "; ".join(dict.fromkeys(each.learner.backend for each in self.learners))

    @property
    def steps(self) -> int:
        """Return the environment steps of all learners, in all generations."""
        return sum(each.steps for each in self.learners)

    @property
    def rollout(self) -> Rollout:
        """Return what all learners together collect before each update."""
        rollouts = [each.learner.rollout for each in self.learners]
        return Rollout(sum(each.steps for each in rollouts), rollouts[0].setting, len(rollouts))

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time of all learners by activity."""
        seconds = dict(self._past_seconds)
        for each in self.learners:
            for key, value in each.learner.seconds.items():
                seconds[key] = seconds.get(key, 0.0) + value
        return seconds

    def train_iteration(self) -> dict[str, float]:
        """Run one iteration of every learner, then freeze those that are due; return metrics by learner and name.

        Where learners are each other's opponents, they play as they were at the start of the iteration.

        Raises as the learners' `train_iteration` and `OpponentsWrapper.step` do, and OSError where a snapshot cannot be
        written.
        """
        self._publish_learners()
        metrics: dict[str, float] = {}
        for index, each in enumerate(self.learners):
            win_rates = self.table.win_rates(index)
            generator = np.random.default_rng((self.seed, self.iteration, index, GeneratorStream.MATCHMAKING))
            each.opponents.probs = matchmaking_probs(
                each.kind, win_rates, self._players_by_kind(), self.config, generator
            )
            values = each.learner.train_iteration()
            results = each.envs.pop_loss_draw_win()
            self.table.add(index, results.sum(axis=1))
            metrics |= {f"{each.name}/{key}": value for key, value in values.items()}
            names = [*(other.name for other in self.learners), *self.anchor_names]
            scores = report(each.envs, self.table, index, names, results)
            metrics |= {f"{each.name}/{key}": value for key, value in scores.items()}
        for index, each in enumerate(self.learners):
            steps, win_rates = each.steps - each.steps_at_snapshot, self.table.win_rates(index)
            if should_freeze(each.kind, steps, win_rates, self._players_by_kind(), self.config):
                self._freeze(index)
        self.iteration += 1
        metrics["league/members"] = len(self.pool.members)
        main = f"{self.learners[0].name}/rollout/return"
        return {**metrics, "rollout/return": metrics[main]} if main in metrics else metrics

    def _publish_learners(self) -> None:
        """Let those opponents that are learners play with their parameters of this moment."""
        for index, each in enumerate(self.learners):  # `index` is the number of the policy and of the player
            if self.actors is not None:
                self.actors.put(index, self._layers(each.learner.save_agent()))
                continue
            saved = each.learner.save_agent()  # a copy, because the learner is trained while others play against it
            for other in self.learners:
                other.opponents.replace(index, self._load_agent(saved))

    def _layers(self, saved: StateDict) -> Layers:
        layers = layers_of(saved.tensors, self.settings, self.learners[0].envs.world)
        if layers is None:
            raise ValueError("the policies of a league must have one architecture")
        return layers

    def _players_by_kind(self) -> PlayersByKind:
        kinds, first = {each.name: each.kind for each in self.learners}, self._first_snapshot
        total = first + len(self.pool.members)
        snapshot_kinds = [kinds[member.name] for member in self.pool.members]
        return PlayersByKind(
            total,
            mains=[k for k, each in enumerate(self.learners) if each.kind == "main"],
            pool=range(len(self.learners), total),
            frozen_mains=[first + k for k, kind in enumerate(snapshot_kinds) if kind == "main"],
            frozen_main_exploiters=[first + k for k, kind in enumerate(snapshot_kinds) if kind == "main_exploiter"],
        )

    def _freeze(self, index: int) -> None:
        """Add a snapshot of a learner to the pool, and restart an exploiter with the probability of its kind.

        The snapshot is named by the steps of the whole league, which go on when a learner restarts.
        """
        frozen = self.learners[index]
        self.pool.freeze(frozen.name, self.steps, frozen.learner.save_agent())
        self._add_opponent(self.pool.members[-1])
        frozen.steps_at_snapshot = frozen.steps
        generator = np.random.default_rng((self.seed, self.iteration, index, GeneratorStream.EXPLOITER_RESET))
        if generator.random() < reset_prob(frozen.kind, self.config):
            for key, value in frozen.learner.seconds.items():
                self._past_seconds[key] = self._past_seconds.get(key, 0.0) + value
            frozen.past_steps = frozen.steps
            self._restart(index, frozen.generation + 1)
            self.table.forget(index)

    def _restart(self, index: int, generation: int) -> None:
        """Replace a learner by a new one, whose seed follows from the generation."""
        restarted = self.learners[index]
        restarted.generation = generation
        seed = (self.seed + index + len(self.learners) * generation) % _SEEDS
        restarted.learner.close()
        restarted.learner = self._make_learner(restarted.envs, self._learner_budget, seed)

    def _add_opponent(self, member: Member) -> None:
        """Add a snapshot to the opponents of all learners."""
        if self.actors is not None:
            # The anchors, which are opponents too, have no policy in `actors`.
            policy_index = len(self.learners) + self.pool.members.index(member)
            self.actors.put(policy_index, self._layers(member.saved))
        for each in self.learners:
            each.opponents.add(None if self.actors is not None else self._load_agent(member.saved))
        self.table.grow(self._first_snapshot + len(self.pool.members))

    def agent(self) -> Agent:
        """Return the current first main agent."""
        return self.learners[0].learner.agent()

    def save_agent(self) -> StateDict:
        """Return the state of the first main agent."""
        return self.learners[0].learner.save_agent()

    def export_state(self) -> StateDict:
        """Return the state with which training of the exported first main agent can continue."""
        learner: Any = self.learners[0].learner
        return learner.export_state() if hasattr(learner, "export_state") else StateDict({}, {})

    def save(self) -> StateDict:
        """Return the state of every learner, the table of results, and a list of the pool's snapshots.

        The snapshots themselves have files of their own.
        """
        learners = joined({each.name: each.learner.save() for each in self.learners})
        counts = {p.name: [p.generation, p.past_steps, p.steps_at_snapshot] for p in self.learners}
        state = {"learners": learners.state, "counts": counts, "members": self.pool.entries()}
        tensors = {**learners.tensors, "league": {"games": self.table.games}}
        return StateDict(tensors, {**state, "iteration": self.iteration})

    def reload_snapshots(self, state: Any) -> None:
        """Load the pool's snapshots, and make the learners again that had restarted; call it before `restore`.

        The environments' opponents must be there when the environments are restored. What a learner draws from its seed
        at the start is not part of its state.

        Raises ValueError for a malformed list or counter and for a snapshot with other parameters; KeyError for a
        missing counter; `checkpoint.load`'s errors for a file that cannot be read.
        """
        self.pool.reload_snapshots(state.get("members"), [each.name for each in self.learners])
        for each in self.learners:
            each.opponents.truncate(self._first_snapshot)
        members, self.pool.members = self.pool.members, []
        for member in members:
            self.pool.members.append(member)
            self._add_opponent(member)
        for index, each in enumerate(self.learners):
            generation = state["counts"][each.name][0]
            if not 0 <= _int_or_minus_one(generation) < _MOST_RESTARTS:
                raise ValueError("a counter of the league is not a non-negative integer")
            if generation != each.generation:
                self._restart(index, generation)

    def restore(self, saved: StateDict) -> None:
        """Restore what `save` returned; the pool and the environments have been restored already.

        Raises ValueError for counters or a table of results that do not fit, KeyError for what is missing, and what the
        learners' `restore` raises.
        """
        state, games = saved.state, saved.tensors["league"]["games"]
        counters = [state["iteration"], *(n for each in self.learners for n in state["counts"][each.name])]
        if not all(0 <= _int_or_minus_one(n) < _MOST_STEPS for n in counters):
            raise ValueError("a counter of the league is not a non-negative integer")
        shape = (len(self.learners), self._first_snapshot + len(self.pool.members), 3)
        if games.shape != shape or games.dtype != np.float64 or not (np.isfinite(games) & (games >= 0)).all():
            raise ValueError("the league's table of results does not fit")
        self.iteration, self.table.games = state["iteration"], games
        parts = split(StateDict(saved.tensors, state["learners"]), [each.name for each in self.learners])
        for each in self.learners:
            _, each.past_steps, each.steps_at_snapshot = state["counts"][each.name]
            each.learner.restore(parts[each.name])

    def close(self) -> None:
        """Close all learners."""
        for each in self.learners:
            each.learner.close()


def _int_or_minus_one(value: Any) -> int:
    """Return an int unchanged, and -1 for any other value."""
    return value if type(value) is int else -1
