"""The rules of a league: whom each kind of learner plays, when a snapshot of it is taken, and when it restarts.

`League` calls these functions before and after each iteration. They change only the state of the generator that
`matchmaking_probs` is given. The M players are numbered in this order: the learners, main agents first; the anchors,
which are agents that are not trained; the snapshots, in the order in which they were taken. Anchors and snapshots are
the pool. In a scenario's keys, `freeze` means that a snapshot is taken, and `reset` that a learner restarts from new
parameters. Shares of games and thresholds are those of the paper unless the settings change them or a comment says
otherwise.

Source: Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement learning", Methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_lab.core.world import Array
from rl_lab.league.config import LeagueConfig
from rl_lab.league.pfsp import pfsp, sample_support

# A main agent plays `lost_to_share` of its games against snapshots that it beats at a lower rate than this. The figure
# is not the paper's.
_LOSING_WIN_RATE = 0.5
# A main exploiter that beats the main agents at a lower rate than this plays their snapshots half of the time.
_TOO_STRONG_WIN_RATE = 0.2
# Probability by kind that a learner restarts after a snapshot of it was taken; that of league exploiters is a setting.
_RESTART_PROBS = {"main": 0.0, "main_exploiter": 1.0}


@dataclass(frozen=True)
class PlayersByKind:
    """The numbers of the players by kind."""

    total: int  # how many players there are
    mains: Sequence[int]  # current main agents
    pool: Sequence[int]  # anchors and all snapshots
    main_snapshots: Sequence[int]  # snapshots of main agents
    main_exploiter_snapshots: Sequence[int]  # snapshots of main exploiters


def players_by_kind(learner_kinds: Sequence[str], num_anchors: int, snapshot_kinds: Sequence[str]) -> PlayersByKind:
    """Return the numbers of the players by kind, from the kinds of the learners and of the pool's snapshots."""
    first_snapshot = len(learner_kinds) + num_anchors
    total = first_snapshot + len(snapshot_kinds)
    return PlayersByKind(
        total,
        mains=[k for k, kind in enumerate(learner_kinds) if kind == "main"],
        pool=range(len(learner_kinds), total),
        main_snapshots=[first_snapshot + k for k, kind in enumerate(snapshot_kinds) if kind == "main"],
        main_exploiter_snapshots=[
            first_snapshot + k for k, kind in enumerate(snapshot_kinds) if kind == "main_exploiter"
        ],
    )


def matchmaking_probs(
    kind: str, win_rates: Array, players: PlayersByKind, config: LeagueConfig, generator: np.random.Generator
) -> Array:
    """Return the probability that a learner plays each player, float64 [M], from its win rates, float64 [M].

    At most max(config.max_opponents, m + 1) probabilities are nonzero, where m is the number of main agents. If the
    main agents have a share, all of them keep it. Which of the other players keep theirs, at least one if any has a
    share, is sampled with `generator`.
    """
    probs = np.zeros(players.total)
    if kind == "main":
        snapshots = [*players.main_snapshots, *players.main_exploiter_snapshots]
        lost_to = [k for k in snapshots if win_rates[k] < _LOSING_WIN_RATE]
        pool_share = max(1.0 - config.self_play - config.lost_to_share, 0.0)
        _add_pool_share(probs, pool_share, win_rates, config, players)
        if lost_to:
            probs[lost_to] += config.lost_to_share * pfsp(win_rates[lost_to], "pfsp_hard", config.power)
    elif kind == "main_exploiter":
        snapshots = list(players.main_snapshots)
        if snapshots and win_rates[list(players.mains)].mean() < _TOO_STRONG_WIN_RATE:
            probs[snapshots] = 0.5 * pfsp(win_rates[snapshots], "pfsp_var")
    else:
        _add_pool_share(probs, 1.0, win_rates, config, players)
    mains = list(players.mains)
    main_probs = probs[mains] + (1.0 - probs.sum()) / len(mains)  # what is left is against the current main agents
    probs[mains] = 0.0
    if main_probs.sum() > 1e-12:
        probs = sample_support(probs, max(config.max_opponents - len(mains), 1), generator)
        probs[mains] = main_probs
        return probs
    return sample_support(probs, config.max_opponents, generator)


def _add_pool_share(probs: Array, share: float, win_rates: Array, config: LeagueConfig, players: PlayersByKind) -> None:
    """Add this share of games, against the pool by the rule `config.selection`, to probs; an empty pool gets none."""
    pool = list(players.main_snapshots[-1:] if config.selection == "latest" else players.pool)
    if not pool:
        return
    if config.selection in ("latest", "uniform"):
        probs[pool] += share / len(pool)
    else:
        probs[pool] += share * pfsp(win_rates[pool], config.selection, config.power)


def is_snapshot_due(kind: str, steps: int, win_rates: Array, players: PlayersByKind, config: LeagueConfig) -> bool:
    """Return whether a snapshot of a learner is due, `steps` environment steps after its start or its last snapshot."""
    if kind == "main":
        return steps >= config.freeze_every
    targets = list(players.mains if kind == "main_exploiter" else players.pool)
    beats_all = bool(targets) and float(win_rates[targets].min()) > config.freeze_win_rate
    return beats_all or steps >= (config.timeout or 2 * config.freeze_every)


def restart_prob(kind: str, config: LeagueConfig) -> float:
    """Return the probability that a learner of this kind restarts, which is decided after each snapshot of it."""
    return _RESTART_PROBS.get(kind, config.reset_prob)
