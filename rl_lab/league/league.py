"""A league: learners of three kinds that play each other and a pool of their earlier snapshots.

The players of a league have the numbers 0 to M - 1: first the L learners, then the anchors, which are agents that are
not trained, then the snapshots in the order in which they were taken. Anchors and snapshots are the pool.

Each learner has environments of its own, in which it plays against the others. The learners are trained in turn, one
iteration each. Any object that implements `Learner` can take part. A league is a `Learner` too, and is saved and
restored like one; `experiments.build` makes it. It writes files only for snapshots, in the run's folder.

The kinds of learners are AlphaStar's: main agents and two kinds of exploiters. `matchmaking` has the rules of who plays
whom and when a snapshot is taken, `pfsp` the table of results, `snapshots` the pool.

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
from rl_lab.league.matchmaking import PlayersByKind, is_snapshot_due, matchmaking_probs, players_by_kind, restart_prob
from rl_lab.league.metrics import learner_metrics
from rl_lab.league.opponents import LeagueOpponents
from rl_lab.league.pfsp import WinTable
from rl_lab.league.snapshots import Snapshot, SnapshotPool
from rl_lab.multiagent.multi_policy import join, split
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

_NUM_SEEDS = 2**31  # seeds of restarted learners are below it, because NumPy's and torch's generators accept these
_MAX_RESTARTS, _MAX_STEPS = 2**31, 2**62  # limits of the counters in a checkpoint, which no training reaches


class League:
    """A learner that consists of the learners of a league.

    Every learner has all players as its opponents, by their numbers.

    Args:
        config: the settings of the league.
        make_learner: `make_learner(envs, budget, seed)` returns a learner for these environments, to be trained for
            `budget` environment steps.
        load_agent: `load_agent(state_dict)` returns the agent that a learner saved.
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
        self.pool, self.win_table, self.iteration = SnapshotPool(), WinTable(len(kinds)), 0
        # The policies of the learners and of the snapshots, evaluated together; None where `BatchedPolicies` does not
        # support them, and each opponent is an agent of its own.
        self.batched_policies: BatchedPolicies | None = None
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
            self.batched_policies = BatchedPolicies(settings.activation)
        for player in self.learners:
            player.opponents.batched_policies = self.batched_policies
        self._update_opponents()
        self.win_table.grow(self._first_snapshot)

    def set_run_dir(self, run: Path) -> None:
        """Write the snapshots that are taken from now on to this run's folder."""
        self.pool.run_dir = run

    @property
    def backend(self) -> str:
        """See `Learner.backend`."""
        return "; ".join(dict.fromkeys(player.learner.backend for player in self.learners))

    @property
    def steps(self) -> int:
        """Return the environment steps of all learners, in all generations."""
        return sum(player.steps for player in self.learners)

    @property
    def rollout(self) -> Rollout:
        """Return what all learners together collect before each update."""
        rollouts = [player.learner.rollout for player in self.learners]
        return Rollout(sum(rollout.steps for rollout in rollouts), rollouts[0].setting, len(rollouts))

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time of all learners by activity."""
        seconds = dict(self._past_seconds)
        for player in self.learners:
            for key, value in player.learner.seconds.items():
                seconds[key] = seconds.get(key, 0.0) + value
        return seconds

    def train_iteration(self) -> dict[str, float]:
        """Run one iteration of every learner, then take the snapshots that are due; return metrics by learner and name.

        Where learners are each other's opponents, they play as they were at the start of the iteration.

        Raises as the learners' `train_iteration` and `OpponentsWrapper.step` do, and OSError where a snapshot cannot be
        written.
        """
        self._update_opponents()
        metrics: dict[str, float] = {}
        for index, player in enumerate(self.learners):
            metrics |= {f"{player.name}/{key}": value for key, value in self._train_learner(index).items()}
        self._take_due_snapshots()
        self.iteration += 1
        metrics["league/members"] = len(self.pool.snapshots)
        if (main_return := f"{self.learners[0].name}/rollout/return") in metrics:
            metrics["rollout/return"] = metrics[main_return]
        return metrics

    def _train_learner(self, index: int) -> dict[str, float]:
        """Run one iteration of a learner against opponents by the matchmaking rules; count its results.

        Returns its own metrics and those of `learner_metrics`.
        """
        player = self.learners[index]
        win_rates = self.win_table.win_rates(index)
        generator = np.random.default_rng((self.seed, self.iteration, index, GeneratorStream.MATCHMAKING))
        players = self._players_by_kind()
        player.opponents.probs = matchmaking_probs(player.kind, win_rates, players, self.config, generator)
        metrics = player.learner.train_iteration()
        results = player.envs.pop_loss_draw_win()
        self.win_table.add(index, results.sum(axis=1))
        names = [*(other.name for other in self.learners), *self.anchor_names]
        return {**metrics, **learner_metrics(player.envs, self.win_table, index, names, results)}

    def _take_due_snapshots(self) -> None:
        """Add snapshots of the learners for which they are due to the pool."""
        for index, player in enumerate(self.learners):
            steps, win_rates = player.steps - player.steps_at_snapshot, self.win_table.win_rates(index)
            if is_snapshot_due(player.kind, steps, win_rates, self._players_by_kind(), self.config):
                self._take_snapshot(index)

    def _update_opponents(self) -> None:
        """Copy the present parameters of the learners to the opponents that play for them."""
        for index, player in enumerate(self.learners):  # `index` is the number of the policy and of the player
            # It is a copy, because the learner is trained while others play against it.
            state_dict = player.learner.save_agent()
            if self.batched_policies is not None:
                self.batched_policies.set_policy(index, self._layers(state_dict))
                continue
            for other in self.learners:
                other.opponents.replace(index, self._load_agent(state_dict))

    def _layers(self, state_dict: StateDict) -> Layers:
        layers = layers_of(state_dict.tensors, self.settings, self.learners[0].envs.world)
        if layers is None:
            raise ValueError("the policies of a league must have one architecture")
        return layers

    def _players_by_kind(self) -> PlayersByKind:
        kinds = self.config.learners()
        snapshot_kinds = [kinds[snapshot.name] for snapshot in self.pool.snapshots]
        return players_by_kind(list(kinds.values()), len(self.anchor_names), snapshot_kinds)

    def _take_snapshot(self, index: int) -> None:
        """Add a snapshot of a learner to the pool, and restart the learner with the probability of its kind.

        The snapshot is named by the steps of the whole league, which go on when a learner restarts.
        """
        player = self.learners[index]
        self._add_opponent(self.pool.freeze(player.name, self.steps, player.learner.save_agent()))
        player.steps_at_snapshot = player.steps
        generator = np.random.default_rng((self.seed, self.iteration, index, GeneratorStream.EXPLOITER_RESET))
        if generator.random() < restart_prob(player.kind, self.config):
            for key, value in player.learner.seconds.items():
                self._past_seconds[key] = self._past_seconds.get(key, 0.0) + value
            player.past_steps = player.steps
            self._restart(index, player.generation + 1)
            self.win_table.clear(index)

    def _restart(self, index: int, generation: int) -> None:
        """Replace a learner by a new one, whose seed follows from the generation."""
        player = self.learners[index]
        player.generation = generation
        seed = (self.seed + index + len(self.learners) * generation) % _NUM_SEEDS
        player.learner.close()
        player.learner = self._make_learner(player.envs, self._learner_budget, seed)

    def _add_opponent(self, snapshot: Snapshot) -> None:
        """Add a snapshot to the opponents of all learners."""
        if self.batched_policies is not None:
            # The anchors, which are opponents too, have no policy in `batched_policies`.
            policy_index = len(self.learners) + self.pool.snapshots.index(snapshot)
            self.batched_policies.set_policy(policy_index, self._layers(snapshot.state_dict))
        for player in self.learners:
            player.opponents.add(None if self.batched_policies is not None else self._load_agent(snapshot.state_dict))
        self.win_table.grow(self._first_snapshot + len(self.pool.snapshots))

    def agent(self) -> Agent:
        """Return the current first main agent."""
        return self.learners[0].learner.agent()

    def save_agent(self) -> StateDict:
        """Return the state of the first main agent."""
        return self.learners[0].learner.save_agent()

    def export_state(self) -> StateDict:
        """Return the state with which training of the first main agent can continue after its export."""
        learner: Any = self.learners[0].learner
        return learner.export_state() if hasattr(learner, "export_state") else StateDict({}, {})

    def save(self) -> StateDict:
        """Return the state of every learner, the table of results, counters, and a list of the pool's snapshots.

        The snapshots themselves have files of their own.
        """
        learners = join({player.name: player.learner.save() for player in self.learners})
        counts = {p.name: [p.generation, p.past_steps, p.steps_at_snapshot] for p in self.learners}
        state = {"learners": learners.state, "counts": counts, "members": self.pool.entries()}
        tensors = {**learners.tensors, "league": {"games": self.win_table.games}}
        return StateDict(tensors, {**state, "iteration": self.iteration})

    def reload_snapshots(self, state: Any) -> None:
        """Load the pool's snapshots, and create the learners again that had restarted; call it before `restore`.

        The environments' opponents must exist when the environments are restored. Learners that had restarted are
        created from their seed, because what a learner samples from its seed at the start is not part of its state.

        Raises ValueError for a malformed list or counter and for a snapshot with other parameters; KeyError for a
        missing counter; `checkpoint.load`'s errors for a file that cannot be read.
        """
        self.pool.reload_snapshots(state.get("members"), [player.name for player in self.learners])
        for player in self.learners:
            player.opponents.truncate(self._first_snapshot)
        snapshots, self.pool.snapshots = self.pool.snapshots, []
        for snapshot in snapshots:
            self.pool.snapshots.append(snapshot)
            self._add_opponent(snapshot)
        for index, player in enumerate(self.learners):
            generation = state["counts"][player.name][0]
            if not _is_counter(generation, _MAX_RESTARTS):
                raise ValueError("a counter of the league is not a non-negative integer")
            if generation != player.generation:
                self._restart(index, generation)

    def restore(self, state_dict: StateDict) -> None:
        """Restore what `save` returned; the pool and the environments have been restored already.

        Raises ValueError for counters or a table of results that do not fit, KeyError for what is missing, and what the
        learners' `restore` raises.
        """
        state, games = state_dict.state, state_dict.tensors["league"]["games"]
        counters = [state["iteration"], *(n for player in self.learners for n in state["counts"][player.name])]
        if not all(_is_counter(n, _MAX_STEPS) for n in counters):
            raise ValueError("a counter of the league is not a non-negative integer")
        shape = (len(self.learners), self._first_snapshot + len(self.pool.snapshots), 3)
        if games.shape != shape or games.dtype != np.float64 or not (np.isfinite(games) & (games >= 0)).all():
            raise ValueError("the league's table of results does not fit")
        self.iteration, self.win_table.games = state["iteration"], games
        parts = split(StateDict(state_dict.tensors, state["learners"]), [player.name for player in self.learners])
        for player in self.learners:
            _, player.past_steps, player.steps_at_snapshot = state["counts"][player.name]
            player.learner.restore(parts[player.name])

    def close(self) -> None:
        """Close all learners."""
        for player in self.learners:
            player.learner.close()


def _is_counter(value: Any, limit: int) -> bool:
    """Return whether a value of a checkpoint is an int from 0 to limit - 1."""
    return type(value) is int and 0 <= value < limit
