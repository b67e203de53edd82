"""Whom each role plays, and whom it must beat. Players are numbers: 0..M-1, learners before the pool.

Source: Vinyals et al. 2019, Methods. The shares are theirs where the settings do not say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..world import Array
from .config import LeagueConfig
from .selection import few, pfsp

_LOST_TO = 0.5  # a main agent has forgotten how to beat whom it beats less often than this; our figure
_TOO_GOOD = 0.2  # below this chance against the main agents, a main exploiter plays their past half of the time


@dataclass(frozen=True)
class Numbers:
    """Who has which number."""

    total: int
    mains: Sequence[int]  # main agents as they are now
    pool: Sequence[int]  # anchors and all who have been frozen
    frozen_mains: Sequence[int]
    frozen_main_exploiters: Sequence[int]


def whom_to_play(
    role: str, rates: Array, numbers: Numbers, config: LeagueConfig, generator: np.random.Generator
) -> Array:
    """Return a learner's chance to meet each player, float64 [M], given its chances to beat them, float64 [M].

    At most `config.active` are not 0.
    """
    chances = np.zeros(numbers.total)
    if role == "main":
        old = [*numbers.frozen_mains, *numbers.frozen_main_exploiters]
        lost = [k for k in old if rates[k] < _LOST_TO]
        pool = max(1.0 - config.self_play - config.forgotten, 0.0)
        _share(chances, numbers.pool, pool, rates, config, numbers)
        if lost:
            chances[lost] += config.forgotten * pfsp(rates[lost], "pfsp_hard", config.power)
    elif role == "main_exploiter":
        past = list(numbers.frozen_mains)
        if past and rates[list(numbers.mains)].mean() < _TOO_GOOD:
            chances[past] = 0.5 * pfsp(rates[past], "pfsp_var")
    else:
        _share(chances, numbers.pool, 1.0, rates, config, numbers)
    mains = list(numbers.mains)
    now = chances[mains] + (1.0 - chances.sum()) / len(mains)  # whatever is left is for who is there now
    chances[mains] = 0.0
    if now.sum() > 1e-12:
        chances = few(chances, max(config.active - len(mains), 1), generator)
        chances[mains] = now
        return chances
    return few(chances, config.active, generator)


def _share(
    chances: Array, pool: Sequence[int], share: float, rates: Array, config: LeagueConfig, numbers: Numbers
) -> None:
    """Add a share of games against the pool, chosen as the settings say; none where the pool is empty."""
    chosen = list(numbers.frozen_mains[-1:] if config.selection == "latest" else pool)
    if not chosen:
        return
    if config.selection in ("latest", "uniform"):
        chances[chosen] += share / len(chosen)
    else:
        chances[chosen] += share * pfsp(rates[chosen], config.selection, config.power)


def ready(role: str, steps: int, rates: Array, numbers: Numbers, config: LeagueConfig) -> bool:
    """Say whether a learner is to be frozen, `steps` of its own after it was last or began."""
    if role == "main":
        return steps >= config.freeze_every
    beaten = list(numbers.mains if role == "main_exploiter" else numbers.pool)
    won = bool(beaten) and float(rates[beaten].min()) > config.beat
    return won or steps >= (config.timeout or 2 * config.freeze_every)
