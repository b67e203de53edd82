"""Metrics of a learner of a league: win rates and scores, which `League.train_iteration` adds to its own metrics."""

from __future__ import annotations

from rl_lab.core.world import Array
from rl_lab.league.pfsp import WinTable
from rl_lab.multiagent.episode_results import DRAWN, WON
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


def learner_metrics(
    envs: OpponentsWrapper, win_table: WinTable, learner: int, names: list[str], results: Array
) -> dict[str, float]:
    """Return a learner's win rates against its opponents so far, and its mean score in each role, by metric name.

    A draw counts as half a win.

    Args:
        envs: the learner's environments.
        win_table: the results of all learners.
        learner: the learner's player number.
        names: the names of the learners and anchors, which are the first players. For the whole pool, the metrics are
            the mean and the least win rate.
        results: the learner's results in the last iteration, int64 [players, roles, 3].
    """
    win_rates, has_games = win_table.win_rates(learner), win_table.games[learner].sum(axis=1) > 0
    metrics = {f"win_rate/{name}": float(win_rates[k]) for k, name in enumerate(names) if has_games[k]}
    num_learners = len(win_table.games)
    if len(pool := win_rates[num_learners:][has_games[num_learners:]]):
        metrics |= {"win_rate/pool": float(pool.mean()), "win_rate/least": float(pool.min())}
    for seats, counts in zip(envs.roles, results.sum(axis=0), strict=True):
        if counts.sum():
            name = envs.batch.world.agents[seats[0]]
            metrics[f"score/{name}"] = float((counts[WON] + counts[DRAWN] / 2) / counts.sum())
    return metrics
