"""Metrics of a learner of a league: its win rates and scores."""

from __future__ import annotations

from rl_lab.core.world import Array
from rl_lab.league.matchmaking import WinTable
from rl_lab.multiagent.episode_results import DRAWN, WON
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


def report(envs: OpponentsWrapper, table: WinTable, learner: int, names: list[str], results: Array) -> dict[str, float]:
    """Return a learner's win rates against its opponents so far, and its mean score in each role, by metric name.

    A draw counts as half a win.

    Args:
        envs: the learner's environments.
        table: the results of all learners.
        learner: the learner's index.
        names: the names of the learners and anchors, which are the first players. For the whole pool, the metrics are
            the mean and the least win rate.
        results: the learner's results in the last iteration, int64 [players, roles, 3].
    """
    win_rates, has_games = table.win_rates(learner), table.games[learner].sum(axis=1) > 0
    metrics = {f"win_rate/{name}": float(win_rates[k]) for k, name in enumerate(names) if has_games[k]}
    learners = len(table.games)
    if len(pool := win_rates[learners:][has_games[learners:]]):
        metrics |= {"win_rate/pool": float(pool.mean()), "win_rate/least": float(pool.min())}
    for seats, counts in zip(envs.roles, results.sum(axis=0), strict=True):
        if counts.sum():
            name = envs.batch.world.agents[seats[0]]
            metrics[f"score/{name}"] = float((counts[WON] + counts[DRAWN] / 2) / counts.sum())
    return metrics
