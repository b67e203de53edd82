"""Tests of evaluation.stats: against scipy and values computed by hand, by properties and by simulated coverage."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from rl_lab.evaluation import stats

FloatArray = NDArray[np.float64]

# Multiples of 0.5 make sums and comparisons exact. The range is narrow, so that ties are common.
halves = st.integers(-20, 20).map(lambda n: n / 2)
vectors = hnp.arrays(np.float64, st.integers(1, 40), elements=halves)
matrices = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=halves)
pairs = st.integers(1, 4).flatmap(
    lambda tasks: st.tuples(
        *[hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.just(tasks)), elements=halves) for _ in range(2)]
    )
)
quick = settings(max_examples=60, deadline=None)


# --- interquartile mean ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 26))
def test_iqm_is_scipys_trimmed_mean(n: int) -> None:
    scores = np.random.default_rng(n).standard_normal(n) ** 3
    assert stats.iqm(scores) == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None), rel=1e-12)


@quick
@given(matrices)
def test_iqm_of_a_matrix_pools_seeds_and_tasks(scores: FloatArray) -> None:
    assert stats.iqm(scores) == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)


def test_iqm_equals_values_computed_by_hand() -> None:
    assert stats.iqm([-100, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    assert stats.iqm([0, 0, 9]) == 3
    assert type(stats.iqm([1, 2])) is float


def test_iqm_over_axes_reduces_each_resample_alone() -> None:
    resamples = np.random.default_rng(0).standard_normal((5, 6, 3))
    assert stats.iqm(resamples, axis=(1, 2)).tolist() == [stats.iqm(resample) for resample in resamples]
    per_column = [[stats.iqm(resample[:, k]) for k in range(3)] for resample in resamples]
    assert stats.iqm(resamples, axis=(1,)).tolist() == per_column


@quick
@given(vectors, halves, halves)
def test_iqm_is_equivariant_to_shift_and_scale(scores: FloatArray, shift: float, scale: float) -> None:
    assert stats.iqm(scale * scores + shift) == pytest.approx(scale * stats.iqm(scores) + shift, abs=1e-9)


@quick
@given(vectors, st.randoms(use_true_random=False))
def test_iqm_is_the_same_bit_for_bit_in_any_order_of_scores(scores: FloatArray, random: Any) -> None:
    scores = scores / 3
    shuffled = scores.tolist()
    random.shuffle(shuffled)
    assert stats.iqm(shuffled) == stats.iqm(scores)


@quick
@given(vectors)
def test_iqm_lies_between_the_quartiles(scores: FloatArray) -> None:
    low, high = np.quantile(scores, [0.25, 0.75])
    assert low - 1e-12 <= stats.iqm(scores) <= high + 1e-12


# --- one agent's episodes ----------------------------------------------------------------------------------


def test_summary_equals_values_computed_by_hand() -> None:
    summary = stats.summary([4, 0, 8, 100, 4], lengths=[10, 20, 30, 40, 50], success=[True, False, True, True, False])
    low, high = summary.pop("ci95")
    assert summary == {
        "episodes": 5,
        "mean_return": 23.2,
        "iqm_return": pytest.approx(16 / 3),
        "median_return": 4.0,
        "min_return": 0.0,
        "max_return": 100.0,
        "std_return": pytest.approx(np.sqrt(7404.8 / 5)),
        "mean_length": 30.0,
        "success_rate": pytest.approx(0.6),
        "warning": None,
    }
    assert (low, high) == stats.bootstrap_ci([4, 0, 8, 100, 4], np.mean)
    assert 0 <= low < 23.2 < high <= 100


def test_summary_of_returns_alone_has_no_length_and_no_success_rate() -> None:
    summary = stats.summary([1.0, 2.0])
    assert summary["mean_length"] is None
    assert summary["success_rate"] is None


def test_summary_of_one_episode_has_an_interval_of_no_width() -> None:
    summary = stats.summary([0.1])
    assert summary["ci95"] == (0.1, 0.1)
    assert summary["std_return"] == 0.0 and summary["warning"] == "no interval from one episode"


@quick
@given(vectors)
def test_summary_interval_contains_the_mean_and_lies_within_the_range(returns: FloatArray) -> None:
    summary = stats.summary(returns)
    low, high = summary["ci95"]
    assert summary["min_return"] <= low <= summary["mean_return"] <= high <= summary["max_return"]


def test_summary_and_across_seeds_can_be_written_as_json() -> None:
    report = stats.summary(
        np.array([1, 2], np.float32), lengths=np.array([3, 4], np.int32), success=np.array([True, False])
    )
    seeds = stats.across_seeds(np.array([1, 2, 4], np.float32))
    assert json.loads(json.dumps(report)) == report | {"ci95": list(report["ci95"])}
    assert json.loads(json.dumps(seeds)) == seeds | {"ci95": list(seeds["ci95"])}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"lengths": [1]}, "lengths has 1 episodes, returns has 2"),
        ({"success": [1, 0, 1]}, "success has 3 episodes, returns has 2"),
        ({"success": [1, 0.5]}, "success must hold only true and false"),
        ({"lengths": []}, "lengths is empty"),
        ({"lengths": [[1, 2]]}, "lengths must be an array of at most 1-d"),
    ],
)
def test_summary_refuses_lengths_and_successes_that_do_not_fit(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.summary([1.0, 2.0], **extra)


# --- bootstrap over seeds ----------------------------------------------------------------------------------


def test_bootstrap_interval_equals_quantiles_computed_by_hand() -> None:
    # The mean of two draws from {0, 1} is 0, 1/2 or 1 with probability 1/4, 1/2 and 1/4: its 30th and 70th
    # percentiles are 1/2, its 20th and 80th are 0 and 1.
    assert stats.bootstrap_ci([0, 1], np.mean, confidence=0.4) == (0.5, 0.5)
    assert stats.bootstrap_ci([0, 1], np.mean, confidence=0.6) == (0.0, 1.0)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_agrees_with_scipys_percentile_method(statistic: Callable[..., Any]) -> None:
    scores = np.random.default_rng(3).exponential(size=25)
    theirs = scipy.stats.bootstrap(
        (scores,), statistic, n_resamples=20_000, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    ours = stats.bootstrap_ci(scores, statistic, repetitions=20_000)
    # Both ends carry simulation noise, about 0.005 for these scores.
    assert ours == pytest.approx(theirs, abs=0.03)


def test_bootstrap_keeps_every_task_in_every_resample() -> None:
    # Tasks far apart and without noise: only a resample that mixes columns could move the mean.
    assert stats.bootstrap_ci([[0, 1000], [0, 1000], [0, 1000]], np.mean) == (500.0, 500.0)


def test_bootstrap_resamples_the_seeds_of_each_task_independently() -> None:
    # The columns cancel: resampling whole rows would leave an interval of no width.
    scores = np.array([[-1, 1], [0, 0], [1, -1]])
    low, high = stats.bootstrap_ci(scores, np.mean)
    assert low < 0 < high


def test_bootstrap_calls_the_statistic_with_complete_resamples() -> None:
    def median_of_task_means(resamples: FloatArray, axis: tuple[int, int]) -> FloatArray:
        assert axis == (1, 2)
        assert resamples.shape[1:] == (2, 3)
        return np.asarray(np.median(resamples.mean(axis=1), axis=1))

    assert stats.bootstrap_ci([[1, 2, 9], [1, 2, 9]], median_of_task_means) == (2.0, 2.0)


def test_bootstrap_is_determined_by_its_seed() -> None:
    scores = np.random.default_rng(0).standard_normal(20)
    first = stats.bootstrap_ci(scores, np.mean, seed=1)
    np.random.default_rng().random()
    assert stats.bootstrap_ci(scores, np.mean, seed=1) == first
    assert stats.bootstrap_ci(scores, np.mean, seed=2) != first
    assert stats.bootstrap_ci(scores[:, None], np.mean, seed=1) == first


def test_block_size_bounds_memory_and_does_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((7, 2))
    y = np.random.default_rng(1).standard_normal((5, 2))
    sizes: list[int] = []

    def recorded(resamples: FloatArray, axis: tuple[int, int]) -> Any:
        sizes.append(resamples.size)
        return np.mean(resamples, axis=axis)

    in_one_block = stats.bootstrap_ci(x, recorded), stats.probability_of_improvement_ci(x, y)
    assert sizes == [2000 * 14]
    sizes.clear()
    monkeypatch.setattr(stats, "_BLOCK_SCORES", 14 * 300)
    assert (stats.bootstrap_ci(x, recorded), stats.probability_of_improvement_ci(x, y)) == in_one_block
    assert sizes == [14 * 300] * 6 + [14 * 200]


@quick
@given(matrices, st.sampled_from([0.25, 2.0, 8.0]), halves)
def test_bootstrap_interval_is_equivariant_to_shift_and_scale(scores: FloatArray, scale: float, shift: float) -> None:
    low, high = stats.bootstrap_ci(scores, stats.iqm, repetitions=50)
    transformed = stats.bootstrap_ci(scale * scores + shift, stats.iqm, repetitions=50)
    assert transformed == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-9)


@quick
@given(matrices)
def test_higher_confidence_is_never_narrower(scores: FloatArray) -> None:
    narrow = stats.bootstrap_ci(scores, np.mean, confidence=0.5, repetitions=50)
    wide = stats.bootstrap_ci(scores, np.mean, confidence=0.99, repetitions=50)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


def coverage(seeds: int, centres: list[float], statistic: Callable[..., Any], simulations: int = 3000) -> float:
    """Return the fraction of simulated experiments whose 95 % interval contains the truth, the mean of `centres`."""
    generator = np.random.default_rng(2021)
    truth = np.mean(centres)
    hits = 0
    for _ in range(simulations):
        scores = generator.normal(centres, 1.0, (seeds, len(centres)))
        low, high = stats.bootstrap_ci(scores, statistic, repetitions=500)
        hits += bool(low <= truth <= high)
    return hits / simulations


# Percentile intervals cover just under 95 %: 94 % here. Their standard error over 3000 simulations is 0.4 %,
# so a correct bootstrap fails this test for fewer than one in 10,000 seeds of the simulation.
@pytest.mark.parametrize("statistic", [np.mean, stats.iqm])
def test_interval_covers_the_truth_in_95_percent_of_simulations(statistic: Callable[..., Any]) -> None:
    assert 0.92 <= coverage(60, [0.0], statistic) <= 0.97


def test_interval_over_tasks_of_different_scale_covers_the_truth_in_95_percent_of_simulations() -> None:
    # Without strata the spread between the tasks would widen the interval until it always covers.
    assert 0.92 <= coverage(60, [-50.0, 50.0], np.mean) <= 0.97


def test_interval_of_three_seeds_is_as_narrow_as_documented() -> None:
    # The docstring of `stats` says 75 %. The standard error is 0.8 %, and the bounds are five of them away.
    assert 0.71 <= coverage(3, [0.0], stats.iqm) <= 0.79


@pytest.mark.parametrize("options", [{"repetitions": 0}, {"confidence": 0.0}, {"confidence": 1.0}])
def test_bootstrap_refuses_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="repetitions >= 1, 0 < confidence < 1"):
        stats.bootstrap_ci([1, 2], np.mean, **options)
    with pytest.raises(ValueError, match="repetitions >= 1, 0 < confidence < 1"):
        stats.probability_of_improvement_ci([1, 2], [1, 2], **options)


def test_bootstrap_refuses_a_statistic_that_pools_the_resamples() -> None:
    with pytest.raises(ValueError, match=r"statistic must return shape \(2000,\), got \(\)"):
        stats.bootstrap_ci([1, 2], lambda resamples, axis: resamples.mean())


# --- training seeds ----------------------------------------------------------------------------------------


def test_across_seeds_equals_values_computed_by_hand() -> None:
    summary = stats.across_seeds([10, 2, 3, 4, -50])
    low, high = summary.pop("ci95")
    assert summary == {
        "seeds": 5,
        "mean": pytest.approx(-31 / 5),
        "iqm": 3.0,
        "median": 3.0,
        "min": -50.0,
        "max": 10.0,
        "warning": None,
    }
    assert (low, high) == stats.bootstrap_ci([10, 2, 3, 4, -50], stats.iqm)
    assert -50 <= low < 3 < high <= 10


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_come_with_a_warning(seeds: int) -> None:
    warning = stats.across_seeds(list(range(seeds)))["warning"]
    assert f"interval of {seeds} seed" in warning and "want at least 3" in warning
    assert stats.across_seeds([1, 2, 3])["warning"] is None


# --- one algorithm against another -------------------------------------------------------------------------


@quick
@given(pairs)
def test_probability_of_improvement_is_mann_whitneys_u(pair: tuple[FloatArray, FloatArray]) -> None:
    x, y = pair
    u = [
        scipy.stats.mannwhitneyu(x[:, k], y[:, k], method="asymptotic").statistic / (len(x) * len(y))
        for k in range(x.shape[1])
        if np.ptp(np.concatenate([x[:, k], y[:, k]])) > 0  # of constants scipy has no statistic without warning
    ]
    constants = x.shape[1] - len(u)
    assert stats.probability_of_improvement(x, y) == pytest.approx((sum(u) + constants / 2) / x.shape[1])


def test_probability_of_improvement_equals_values_computed_by_hand() -> None:
    assert stats.probability_of_improvement([2, 3], [1]) == 1.0
    assert stats.probability_of_improvement([1, 3], [2, 3, 4]) == pytest.approx((0 + 1 + 0.5) / 6)
    # Tasks count alike, and scores of different tasks never meet.
    assert stats.probability_of_improvement([[1, 100], [1, 100]], [[0, 200], [0, 200]]) == 0.5


@quick
@given(pairs)
def test_the_two_probabilities_of_improvement_sum_to_one(pair: tuple[FloatArray, FloatArray]) -> None:
    x, y = pair
    x_over_y, y_over_x = stats.probability_of_improvement(x, y), stats.probability_of_improvement(y, x)
    assert x_over_y + y_over_x == pytest.approx(1)
    assert 0 <= x_over_y <= 1


@quick
@given(pairs)
def test_probability_of_improvement_depends_only_on_the_order_of_scores(pair: tuple[FloatArray, FloatArray]) -> None:
    x, y = pair
    assert stats.probability_of_improvement(np.exp(x), np.exp(y)) == stats.probability_of_improvement(x, y)


def test_interval_of_probability_of_improvement_contains_it_and_widens_with_confidence() -> None:
    generator = np.random.default_rng(5)
    x, y = generator.normal(0.5, 1, (30, 2)), generator.normal(0, 1, (20, 2))
    interval = partial(stats.probability_of_improvement_ci, x, y)
    low, high = interval()
    assert low < stats.probability_of_improvement(x, y) < high
    assert interval() == (low, high) != interval(seed=1)
    wide = interval(confidence=0.999)
    assert wide[0] < low < high < wide[1]


def test_interval_of_probability_of_improvement_agrees_with_scipy() -> None:
    generator = np.random.default_rng(6)
    x, y = generator.normal(0.5, 1, 15), generator.normal(0, 1, 12)

    def win_rate(x: FloatArray, y: FloatArray, axis: int) -> Any:
        return np.mean(x[..., :, None] > y[..., None, :], axis=(-2, -1))

    theirs = scipy.stats.bootstrap(
        (x, y), win_rate, n_resamples=20_000, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    ours = stats.probability_of_improvement_ci(x, y, repetitions=20_000)
    assert ours == pytest.approx(theirs, abs=0.02)


def test_an_algorithm_that_always_wins_has_an_interval_of_no_width() -> None:
    assert stats.probability_of_improvement_ci([5, 6, 7], [1, 2]) == (1.0, 1.0)


def test_the_two_samples_of_a_comparison_are_resampled_independently() -> None:
    # With the same draws for both, an algorithm against itself would always come out at exactly one half.
    low, high = stats.probability_of_improvement_ci([1, 2, 3, 4], [1, 2, 3, 4])
    assert low < 0.5 < high


@pytest.mark.parametrize("compare", [stats.probability_of_improvement, stats.probability_of_improvement_ci])
def test_comparing_refuses_different_numbers_of_tasks(compare: Callable[..., Any]) -> None:
    # One task would broadcast over two, and compare scores of different tasks.
    with pytest.raises(ValueError, match=r"x and y differ in tasks, got shapes \[\(2,\), \(2, 2\)\]"):
        compare([1, 2], [[1, 2], [3, 4]])


# --- optimality gap and performance profile ----------------------------------------------------------------


def test_optimality_gap_equals_values_computed_by_hand() -> None:
    assert stats.optimality_gap([0.5, 2.0]) == 0.25
    assert stats.optimality_gap([[1, 7], [3, 5]], target=4) == pytest.approx((3 + 0 + 1 + 0) / 4)


@quick
@given(matrices, halves)
def test_optimality_gap_is_rliables(scores: FloatArray, target: float) -> None:
    expected = target - np.mean(np.minimum(scores, target))
    assert stats.optimality_gap(scores, target) == pytest.approx(expected, abs=1e-12)
    assert (stats.optimality_gap(scores, target) == 0) == (scores.min() >= target)


def test_performance_profile_equals_values_computed_by_hand() -> None:
    profile = stats.performance_profile([[0, 1], [1, 2]], [2, -1, 0, 0.5, 1])
    assert profile.tolist() == [0.0, 1.0, 0.75, 0.75, 0.25]
    assert profile.dtype == np.float64


@quick
@given(matrices, vectors)
def test_performance_profile_falls_from_one_to_zero(scores: FloatArray, thresholds: FloatArray) -> None:
    ends = [scores.min() - 1, scores.max()]
    profile = stats.performance_profile(scores, np.sort(np.concatenate([thresholds, ends])))
    assert (np.diff(profile) <= 0).all()
    assert stats.performance_profile(scores, ends).tolist() == [1.0, 0.0]


# --- bad input ---------------------------------------------------------------------------------------------

FUNCTIONS_OF_SCORES: dict[str, Callable[[Any], Any]] = {
    "iqm": stats.iqm,
    "summary": stats.summary,
    "across_seeds": stats.across_seeds,
    "bootstrap_ci": lambda scores: stats.bootstrap_ci(scores, np.mean),
    "probability_of_improvement, x": lambda scores: stats.probability_of_improvement(scores, [1.0]),
    "probability_of_improvement, y": lambda scores: stats.probability_of_improvement([1.0], scores),
    "probability_of_improvement_ci": lambda scores: stats.probability_of_improvement_ci(scores, [1.0]),
    "optimality_gap": stats.optimality_gap,
    "performance_profile, scores": lambda scores: stats.performance_profile(scores, [1.0]),
    "performance_profile, thresholds": lambda scores: stats.performance_profile([1.0], scores),
}


@pytest.mark.parametrize("function", FUNCTIONS_OF_SCORES.values(), ids=FUNCTIONS_OF_SCORES.keys())
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "is empty"),
        ([1.0, float("nan")], r"must be finite, got nan at \[1\]"),
        ([float("-inf"), 1.0], r"must be finite, got -inf at \[0\]"),
        (3.0, r"got shape \(\)"),
        (np.zeros((2, 2, 2, 2)), r"got shape \(2, 2, 2, 2\)"),
        (["many"], "must be an array of numbers"),
        ([[1.0], [1.0, 2.0]], "must be an array of numbers"),
        ([10**400], "must be an array of numbers"),
    ],
    ids=["empty", "nan", "inf", "scalar", "4-d", "text", "ragged", "overflow"],
)
def test_bad_scores_are_refused_in_one_line(function: Callable[[Any], Any], bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        function(bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", ["summary", "across_seeds", "performance_profile, thresholds"])
def test_a_matrix_is_refused_where_a_vector_is_needed(function: str) -> None:
    with pytest.raises(ValueError, match="at most 1-d"):
        FUNCTIONS_OF_SCORES[function]([[1.0, 2.0], [3.0, 4.0]])


def test_optimality_gap_refuses_a_target_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="target must be finite"):
        stats.optimality_gap([1.0], target=float("nan"))
