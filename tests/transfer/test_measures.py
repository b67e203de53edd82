"""Statistics of learning curves whose speed-ups, censored seeds and ties are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rl_lab.transfer import measures
from rl_lab.transfer.measures import Curve

STEPS = [100.0 * k for k in range(1, 11)]
BUDGET = 1000.0


def rising(rate: float, start: float = 0.0) -> Curve:
    """Return a curve that rises by `rate` in 100 steps, up to 1."""
    return Curve(STEPS, [min(1.0, start + rate * (k + 1)) for k in range(len(STEPS))], start)


NEVER = Curve(STEPS, [0.0] * len(STEPS), 0.0)


def test_a_curve_is_interpolated_between_measurements_from_the_start_on() -> None:
    curve = Curve([100.0, 200.0], [1.0, 3.0], 0.0)
    assert curve.at([0, 50, 100, 150, 200, 900]).tolist() == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("seeds", [1, 4, 10])
def test_an_arm_that_learns_four_times_as_fast_has_a_speed_up_of_four(seeds: int) -> None:
    slow, fast = (measures.steps_to([rising(rate)] * seeds, 0.8, BUDGET) for rate in (0.1, 0.4))
    assert slow.steps.tolist() == [800.0] * seeds and fast.steps.tolist() == [200.0] * seeds
    assert measures.speed_up(slow, fast) == {"ratio": 4.0, "ci95": (4.0, 4.0), "bound": "exact"}


def test_equal_arms_have_a_speed_up_of_one_within_the_interval() -> None:
    curves = [rising(rate) for rate in (0.1, 0.125, 0.15, 0.2, 0.25, 0.3)]
    steps = measures.steps_to(curves, 0.8, BUDGET)
    speed = measures.speed_up(steps, steps)
    assert speed is not None and speed["ratio"] == 1.0 and speed["ci95"][0] < 1 < speed["ci95"][1]
    assert measures.difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])["iqm"] == 0.0


def test_a_score_reached_exactly_counts_and_so_does_one_that_rounding_misses() -> None:
    assert rising(0.1).steps_to(0.8) == 800.0  # 8 times 0.1
    assert Curve([10.0], [sum([0.1] * 10)], 0.0).steps_to(1.0) == 10.0
    assert NEVER.steps_to(0.1) == math.inf


def test_the_score_before_training_does_not_make_a_speed_up_infinite() -> None:
    cloned = Curve(STEPS, [1.0] * len(STEPS), 1.0)
    assert cloned.steps_to(0.9) == 100.0


def test_steps_of_the_data_are_added_in_the_second_ledger() -> None:
    slow = measures.steps_to([rising(0.1)] * 3, 0.8, BUDGET)
    fast = measures.steps_to([rising(0.4)] * 3, 0.8, BUDGET, extra=600)
    speed = measures.speed_up(slow, fast)
    assert fast.steps.tolist() == [800.0] * 3 and speed is not None and speed["ratio"] == 1.0


@pytest.mark.parametrize(("censored", "bound"), [(0, "exact"), (2, "exact"), (3, "at least"), (8, "at least")])
def test_censored_seeds_are_kept_and_bound_the_speed_up_once_the_iqm_depends_on_them(censored: int, bound: str) -> None:
    scratch = measures.steps_to([NEVER] * censored + [rising(0.2)] * (8 - censored), 0.8, BUDGET)
    fast = measures.steps_to([rising(0.8)] * 8, 0.8, BUDGET)
    assert scratch.censored == censored and len(scratch.steps) == 8 and scratch.steps.max() <= BUDGET
    speed = measures.speed_up(scratch, fast)
    assert speed is not None and speed["bound"] == bound
    assert speed["ratio"] == (
        10.0 if censored == 8 else 4.0 if censored <= 2 else pytest.approx(np.mean([10, 4, 4, 4]))
    )
    assert scratch.as_json()["reached"] == 8 - censored


def test_bounds_of_the_other_arm_of_both_and_of_none_that_learns() -> None:
    learns, never = (measures.steps_to([curve] * 4, 0.8, BUDGET) for curve in (rising(0.1), NEVER))
    slower = measures.speed_up(learns, never)
    assert slower is not None and slower["bound"] == "at most" and slower["ratio"] == 0.8
    half = measures.steps_to([NEVER, NEVER, rising(0.1), rising(0.1)], 0.8, BUDGET)
    both = measures.speed_up(half, half)
    assert both is not None and both["bound"] == "unknown"
    assert measures.speed_up(never, never) is None


def test_the_dip_is_measured_from_the_own_start() -> None:
    assert measures.dip(Curve(STEPS[:3], [0.2, 0.6, 0.9], 0.7)) == pytest.approx(0.5)
    assert measures.dip(rising(0.1)) == 0.0


def test_a_difference_has_an_interval_that_covers_it() -> None:
    rng = np.random.default_rng(0)
    scratch, arm = rng.normal(0.0, 1.0, 20), rng.normal(3.0, 1.0, 20)
    gap = measures.difference(arm, scratch)
    low, high = gap["ci95"]
    assert low < gap["iqm"] < high and low > 1.5 and high < 4.5
