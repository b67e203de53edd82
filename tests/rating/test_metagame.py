"""Tests of game theory: beside OpenSpiel, on games solved by hand, and properties of random payoff tables."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rl_lab.rating import metagame

quick = settings(max_examples=60, deadline=None)
CYCLE = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
# Quarters make ties common.
tables = st.integers(1, 6).flatmap(
    lambda n: hnp.arrays(np.float64, (n, n), elements=st.integers(-4, 4).map(lambda k: k / 4)).map(lambda t: t - t.T)
)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_alpha_rank_beside_openspiel(alpha: float) -> None:
    alpharank = pytest.importorskip("open_spiel.python.egt.alpharank")
    generator = np.random.default_rng(0)
    for n in (2, 3, 5):
        table = generator.uniform(-1, 1, (n, n))
        for payoffs, mixing in ((table - table.T, False), (table - table.T, True), (table, True)):
            theirs = alpharank.compute([payoffs], m=20, alpha=alpha, use_local_selection_model=not mixing)[2]
            ours = metagame.alpha_rank(payoffs, alpha=alpha, population=20, mixing=mixing)
            assert ours == pytest.approx(theirs, abs=1e-7)


def test_alpha_rank_without_limit_is_where_it_leads() -> None:
    """An entrant that none beats takes all; in a cycle each has a third, also where the cycle beats all others."""
    assert metagame.alpha_rank([[0, -1, -1], [1, 0, -1], [1, 1, 0]]) == pytest.approx([0, 0, 1], abs=1e-8)
    assert metagame.alpha_rank(CYCLE) == pytest.approx([1 / 3] * 3)
    above = np.ones((4, 4))
    above[:3, :3], above[3] = CYCLE, -1
    assert metagame.alpha_rank(above) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-8)
    assert metagame.alpha_rank(above, alpha=100.0) == pytest.approx(metagame.alpha_rank(above), abs=1e-6)
    assert metagame.alpha_rank(np.zeros((4, 4))) == pytest.approx([0.25] * 4)
    assert metagame.alpha_rank([[0.0]]).tolist() == [1.0]


@quick
@given(tables, st.randoms(use_true_random=False))
def test_other_names_change_nothing_of_alpha_rank_or_nash(table: Any, random: Any) -> None:
    order = random.sample(range(len(table)), len(table))
    permuted = table[np.ix_(order, order)]
    assert metagame.alpha_rank(permuted) == pytest.approx(metagame.alpha_rank(table)[order], abs=1e-6)
    assert metagame.maxent_nash(permuted)[0] == pytest.approx(metagame.maxent_nash(table)[0][order], abs=1e-4)
    assert metagame.cyclic_share(permuted) == pytest.approx(metagame.cyclic_share(table), abs=1e-9)


@quick
@given(tables)
def test_no_entrant_gains_against_the_equilibrium_and_its_support_loses_nothing(table: Any) -> None:
    nash, value = metagame.maxent_nash(table)
    assert nash.sum() == pytest.approx(1) and (nash >= 0).all()
    assert value.max() < 1e-5 and np.abs(value[nash > 1e-4]).max() < 1e-5


def test_the_equilibrium_is_the_most_even_one() -> None:
    """Of a game with many: of two copies each has half; of a square of equals each has a quarter."""
    copied = [0, 0, 1, 2]
    assert metagame.maxent_nash(CYCLE[np.ix_(copied, copied)])[0] == pytest.approx(
        [1 / 6, 1 / 6, 1 / 3, 1 / 3], abs=1e-6
    )
    assert metagame.maxent_nash(np.zeros((4, 4)))[0] == pytest.approx([0.25] * 4)
    # A cycle, and an entrant that draws with two of it and loses to the third: it is never played.
    table = np.zeros((4, 4))
    table[:3, :3], table[3, 0], table[0, 3] = CYCLE, -1, 1
    nash, value = metagame.maxent_nash(table)
    assert nash[:3] == pytest.approx([1 / 3] * 3, abs=1e-6) and value[3] == pytest.approx(-1 / 3)
    # Two equal ones, and one that beats the first alone and loses to the second: p = (1 - p2, p2, 0), p2 >= 1/2.
    table = np.array([[0.0, 0, -1], [0, 0, 1], [1, -1, 0]])
    assert metagame.maxent_nash(table)[0] == pytest.approx([0.5, 0.5, 0], abs=1e-6)


def test_payoffs_that_are_not_of_a_zero_sum_game_are_refused() -> None:
    with pytest.raises(ValueError, match="antisymmetric"):
        metagame.maxent_nash([[0, 1], [1, 0]])
    for table in ([[0, np.nan], [0, 0]], [[0, 1]], np.zeros((0, 0))):
        with pytest.raises(ValueError, match="square matrix of finite numbers"):
            metagame.alpha_rank(table)
    with pytest.raises(ValueError, match="alpha=0"):
        metagame.alpha_rank(CYCLE, alpha=0)


@quick
@given(tables)
def test_the_smith_set_is_the_smallest_that_beats_all_others(table: Any) -> None:
    score, n = (table + 2) / 4, len(table)
    score[np.abs(table) > 2] = np.where(table[np.abs(table) > 2] > 0, 1.0, 0.0)
    dominant = [
        set(group)
        for size in range(1, n + 1)
        for group in combinations(range(n), size)
        if all(score[i, j] > 0.5 for i in group for j in range(n) if j not in group)
    ]
    result = metagame.smith_set(score)
    assert set(result) == dominant[0] and result == sorted(result)
    winner = metagame.condorcet(score)
    assert (winner is None) == (len(result) > 1) and (winner is None or [winner] == result)


def test_cycles_and_ladders_share_a_table_as_the_hodge_decomposition_says() -> None:
    ladder = np.subtract.outer([3.0, 1, 0], [3, 1, 0])
    assert metagame.cyclic_share(ladder) == pytest.approx(0, abs=1e-12)
    assert metagame.cyclic_share(CYCLE) == pytest.approx(1)
    assert metagame.cyclic_share(np.zeros((3, 3))) == 0
    mixed = metagame.cyclic_share(ladder + 2 * CYCLE)
    assert mixed == pytest.approx((4 * CYCLE**2).sum() / (ladder**2 + 4 * CYCLE**2).sum())  # they are orthogonal
    chain = np.ones((3, 3))
    chain[0, 2] = chain[2, 0] = 0  # these never met: what is left has no cycle
    assert metagame.cyclic_share(CYCLE, chain) == pytest.approx(0, abs=1e-12)


def test_the_worst_opponent_is_the_one_that_leaves_least() -> None:
    score = [[np.nan, 0.2, 0.9], [0.8, 0.1, np.nan], [0.1, np.nan, np.nan]]
    assert metagame.worst_opponents(score) == [(1, 0.2), (0, 0.8), (0, 0.1)]
    assert metagame.worst_opponents([[0.5]]) == [None]
