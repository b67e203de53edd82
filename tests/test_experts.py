"""Every world that carries an expert can be won: the expert reaches the return that counts as solved."""

from __future__ import annotations

import numpy as np
import pytest

from rl_lab import worlds
from rl_lab.engine import Batch

EPISODES = 100
# Of worlds without a conventional return: what a good, not a perfect player gets.
BARS = {"pendulum": -200.0}


@pytest.mark.parametrize("name", worlds.names())
def test_expert_solves_its_world(name: str) -> None:
    world = worlds.load(name)
    if world.expert is None:
        pytest.skip("has no expert")
    bar = world.solved if world.solved is not None else BARS.get(name)
    assert bar is not None, f"{name} has an expert: give World(..., solved=) the return that it must reach"
    batch = Batch(world, EPISODES, seed=11)
    batch.reset()
    # Each world's first episode: taking the first hundred to finish would favour short ones.
    returns = np.full(EPISODES, np.nan)
    while np.isnan(returns).any():
        batch.expert_actions()
        batch.step()
        first = (batch.terminated | batch.truncated) & np.isnan(returns)
        returns[first] = batch.episode_returns[first, 0]
    assert returns.mean() >= bar, f"mean {returns.mean():.1f}, worst {returns.min():.1f}"
