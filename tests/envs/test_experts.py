"""These tests check that experts solve their worlds, and beat novices and random play in each role."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rl_lab.checks.suite import with_few_agents
from rl_lab.core.random_actions import write_uniform_actions
from rl_lab.core.world import Array, World
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

EPISODES = 100
# Of games where one episode says little: luck has more part in them, or draws have.
MORE = {"kuhn_poker": 200_000, "leduc_poker": 3_000, "othello": 400, "tic_tac_toe": 1_000}
# Of worlds without a conventional return: what a good, not a perfect player gets.
BARS = {"pendulum": -200.0}
# Standard errors by which the stronger must lead: one lead in a million would be luck.
CERTAIN = 5.0


def small_world(name: str) -> World:
    return with_few_agents(world_registry.load(name), 32)


def play(world: World, strengths: list[str]) -> Array:
    """Return [N, A]: the returns of each world's first episode, agent a being of strengths[a]."""
    n = MORE.get(world.name, EPISODES)
    batch, chance = Batch(world, n, seed=11), np.random.default_rng(0)
    batch.reset()
    # Each world's first episode: taking the first hundred to finish would favour short ones.
    returns = np.full((n, len(world.agents)), np.nan)
    seats = {name: [a for a, own in enumerate(strengths) if own == name] for name in set(strengths)}
    while np.isnan(returns).any():
        chosen = batch.actions.copy()
        for name, own in seats.items():
            if name == "chance":
                write_uniform_actions(batch, chance.random(batch.actions.shape))
            else:
                batch.scripted_actions(name)
            chosen[:, own] = batch.actions[:, own]
        batch.actions[...] = chosen
        batch.step()
        first = batch.done & np.isnan(returns[:, 0])
        returns[first] = batch.episode_returns[first]
    return returns


@pytest.mark.parametrize("name", world_registry.names())
def test_expert_solves_its_world(name: str) -> None:
    world = small_world(name)
    if world.expert is None:
        pytest.skip("has no expert")
    bar = world.reward_threshold if world.reward_threshold is not None else BARS.get(name)
    if bar is None and len(world.agents) > 1:
        pytest.skip("has no return that counts as solved: see the next test")
    assert bar is not None, f"{name} has an expert: give World(..., reward_threshold=) the return that it must reach"
    returns = play(world, ["expert"] * len(world.agents))
    assert returns.mean() >= bar, f"mean {returns.mean():.1f}, worst {returns.min():.1f}"


LADDERS = [
    (name, role, weaker, stronger)
    for name in world_registry.names()
    if len((world := world_registry.load(name)).agents) > 1 and world.expert is not None
    for role in world.roles
    for weaker, stronger in ([("chance", "novice"), ("novice", "expert")] if world.novice else [("chance", "expert")])
]


@pytest.mark.parametrize("name, role, weaker, stronger", LADDERS)
def test_the_stronger_script_does_better_in_every_role(name: str, role: str, weaker: str, stronger: str) -> None:
    """Against the same others, the weaker ones; in a world of one role, as a whole team.

    In a team of several roles, beside the stronger ones: messages help no agent that ignores them.
    """
    world = small_world(name)
    own = world.roles[role]
    everyone = play(world, ["chance"] * len(world.agents))
    team = len(world.roles) > 1 and np.array_equal(everyone, np.broadcast_to(everyone[:, :1], everyone.shape))
    scores = []
    for strength in (weaker, stronger):
        strengths = [strength if a in own else stronger if team else weaker for a in range(len(world.agents))]
        scores.append(play(world, strengths)[:, own].mean(axis=1))
    lead = scores[1].mean() - scores[0].mean()
    error = math.sqrt((scores[0].var() + scores[1].var()) / len(scores[0]))
    assert lead > CERTAIN * error, f"{stronger} {scores[1].mean():.2f}, {weaker} {scores[0].mean():.2f} +- {error:.2f}"
