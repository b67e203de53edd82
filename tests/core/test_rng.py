"""Random draws follow the published generator and their distributions.

Every test draws from fixed seeds, so it passes always or never. With random seeds, one statistical comparison would
refuse a perfect generator with a probability of at most 2 * ALPHA; there are about 40 comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from scipy import stats

from rl_lab.core import rng
from rl_lab.core.kernel import compile_kernel_graph, kernel
from rl_lab.core.record import PlainArray, PlainRecord, WorldState, f4
from rl_lab.core.rng import STREAM_SHIFT, bits, integers, normal, philox, uniform

ALPHA = 1e-4


@kernel
def fill_bits(states: Any, n: Any, out: Any) -> None:
    for k in range(len(out)):
        out[k] = bits(states[0])


@kernel
def fill_single(states: Any, n: Any, out: Any) -> None:
    for k in range(len(out)):
        out[k] = uniform(states[0], f4(-2), f4(3))


@kernel
def fill_double(states: Any, n: Any, out: Any) -> None:
    for k in range(len(out)):
        out[k] = uniform(states[0], 0.0, 1.0)


@kernel
def fill_integers(states: Any, n: Any, out: Any) -> None:
    for k in range(len(out)):
        out[k] = integers(states[0], n)


@kernel
def fill_normal(states: Any, n: Any, out: Any) -> None:
    for k in range(len(out)):
        out[k] = normal(states[0])


COMPILER = numba.njit(error_model="numpy")
FILLS = [fill_bits, fill_single, fill_double, fill_integers, fill_normal]
COMPILED = {function: compile_kernel_graph(function, COMPILER) for function in FILLS}
PHILOX = compile_kernel_graph(philox, COMPILER)


def stream(seed: int, index: int = 0) -> Any:
    """One world's state at the beginning of its stream, as the engine sets it."""
    states = WorldState.zeros(1)
    states["rng_key"], states["rng_counter"] = seed, np.uint64(index) << STREAM_SHIFT
    return states


def draw(function: Callable[..., None], count: int, n: int = 0, seed: int = 0, index: int = 0) -> Any:
    out = np.empty(count)
    COMPILED[function](stream(seed, index), n, out)
    return out


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0x00000000, 0x00000000), 0x00000000, (0xFF1DAE59, 0x6CD10DF2)),
        ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, (0x2C3F628B, 0xAB4FD7AD)),
        ((0x243F6A88, 0x85A308D3), 0x13198A2E, (0xDD7CE038, 0xF62A4C12)),
    ],
)
@pytest.mark.parametrize("function", [philox, PHILOX], ids=["plain", "compiled"])
def test_known_answers(function: Any, counter: tuple[int, int], key: int, expected: tuple[int, int]) -> None:
    """Source: kat_vectors of Random123, philox2x32 with 10 rounds; words from the least significant."""
    drawn = int(function(np.uint64(key), np.uint64(counter[0] | counter[1] << 32)))
    assert (drawn & 0xFFFFFFFF, drawn >> 32) == expected


@pytest.mark.parametrize("function", FILLS)
def test_plain_python_draws_the_same(function: Callable[..., None]) -> None:
    plain, compiled = np.empty(500), np.empty(500)
    states = stream(5, 3), stream(5, 3)
    function(PlainArray(states[0]), 1000, plain)
    COMPILED[function](states[1], 1000, compiled)
    if function is fill_normal:  # each side asks its own libm for a logarithm
        assert plain == pytest.approx(compiled, rel=1e-13)
    else:
        assert plain.tobytes() == compiled.tobytes()
    assert states[0].tobytes() == states[1].tobytes()


@pytest.mark.parametrize(("function", "draws"), [(bits, 1), (normal, 2)])
def test_draws_advance_the_stream(function: Callable[..., Any], draws: int) -> None:
    states = stream(1, 7)
    function(PlainRecord(states[0]))
    assert int(states["rng_counter"][0]) == (7 << 40) + draws and states["rng_key"][0] == 1


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_bits_are_uniform(seed: int) -> None:
    drawn = draw(fill_bits, 1_000_000, seed=seed).astype(np.uint64)
    assert drawn.max() < 2**32
    for shift in (0, 12, 24):
        counts = np.bincount((drawn >> np.uint64(shift)).astype(np.int64) & 0xFF, minlength=256)
        assert ALPHA < stats.chisquare(counts).pvalue < 1 - ALPHA
    ones = [int(np.count_nonzero(drawn >> np.uint64(k) & np.uint64(1))) for k in range(32)]
    assert np.abs(np.array(ones) - 500_000).max() < stats.norm.isf(ALPHA / 64) * 500


def test_successive_bits_are_independent() -> None:
    drawn = draw(fill_bits, 1_000_000).astype(np.int64) >> 28
    table = np.zeros((16, 16))
    np.add.at(table, (drawn[:-1], drawn[1:]), 1)
    assert ALPHA < stats.chi2_contingency(table).pvalue < 1 - ALPHA


@pytest.mark.parametrize(("function", "low", "high"), [(fill_single, -2, 3), (fill_double, 0, 1)])
def test_uniform_is_uniform(function: Callable[..., None], low: float, high: float) -> None:
    drawn = draw(function, 1_000_000, seed=11)
    assert low <= drawn.min() and drawn.max() < high
    assert ALPHA < stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue < 1 - ALPHA


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (f4(0), f4(1)), (f4(1), f4(2)), (f4(-1), f4(1))])
def test_uniform_never_reaches_its_upper_end(monkeypatch: pytest.MonkeyPatch, low: Any, high: Any) -> None:
    s = PlainRecord(stream(0)[0])
    monkeypatch.setattr(rng, "bits", lambda s: np.uint64(0))
    assert uniform(s, low, high) == low
    monkeypatch.setattr(rng, "bits", lambda s: np.uint64(2**32 - 1))
    assert low <= uniform(s, low, high) < high
    assert type(uniform(s, low, high)) is type(low)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 1000])
def test_integers_are_uniform(n: int) -> None:
    drawn = draw(fill_integers, 1_000_000, n=n, seed=n)
    counts = np.bincount(drawn.astype(np.int64), minlength=n)
    assert len(counts) == n and counts.min() > 0
    assert n == 1 or ALPHA < stats.chisquare(counts).pvalue < 1 - ALPHA


@pytest.mark.parametrize("n", [1, 2, 5, 2**31 - 1])
def test_integers_reach_both_ends_and_no_further(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    s = PlainRecord(stream(0)[0])
    for word, expected in ((0, 0), (2**32 - 1, n - 1)):
        monkeypatch.setattr(rng, "bits", lambda s, word=word: np.uint64(word))
        assert integers(s, n) == expected


def test_normal_has_the_moments_and_the_shape() -> None:
    drawn = draw(fill_normal, 1_000_000, seed=2)
    assert np.isfinite(drawn).all()
    z = stats.norm.isf(ALPHA / 8)  # four moments, two sides; their variances are 1, 2, 15 and 96 over n
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((drawn**power).mean() - mean) < z * np.sqrt(variance / len(drawn))
    assert ALPHA < stats.kstest(drawn, "norm").pvalue < 1 - ALPHA
    assert abs(np.corrcoef(drawn[::2], drawn[1::2])[0, 1]) < z / np.sqrt(len(drawn) / 2)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"seed": 2**31}, {"index": 1}, {"index": 2**23}, {"index": 2**24 - 1}], ids=str
)
def test_streams_are_independent(other: dict[str, int]) -> None:
    one, two = draw(fill_bits, 500_000), draw(fill_bits, 500_000, **other)
    # Two independent streams would have 500_000 / 2**32, about 1e-4, equal words at the same place on average.
    assert np.count_nonzero(one == two) == 0
    assert abs(np.corrcoef(one, two)[0, 1]) < stats.norm.isf(ALPHA / 2) / np.sqrt(len(one))
    table = np.zeros((16, 16))
    np.add.at(table, (one.astype(np.int64) >> 28, two.astype(np.int64) >> 28), 1)
    assert ALPHA < stats.chi2_contingency(table).pvalue < 1 - ALPHA


def test_first_draws_over_streams_and_seeds_are_uniform() -> None:
    """Worlds begin with their first draws: across streams and seeds these must not line up either."""
    first = np.array([draw(fill_double, 1, index=k)[0] for k in range(20_000)])
    again = np.array([draw(fill_double, 1, seed=k)[0] for k in range(20_000)])
    for drawn in (first, again):
        assert ALPHA < stats.kstest(drawn, "uniform").pvalue < 1 - ALPHA
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < stats.norm.isf(ALPHA / 2) / np.sqrt(len(drawn))
