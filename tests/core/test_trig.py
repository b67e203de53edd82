"""These tests check that our sine and cosine are accurate, and have the same bits compiled and plain."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl_lab.core.kernel import compile_kernel_graph, kernel
from rl_lab.core.record import f4
from rl_lab.core.trig import cos, sin

ERROR = 2e-7  # promised for |x| up to LARGEST
LARGEST = 1000


@kernel
def tabulate(x: Any, sines: Any, cosines: Any) -> None:
    for k in range(len(x)):
        sines[k], cosines[k] = sin(x[k]), cos(x[k])


COMPILED_TABULATE = compile_kernel_graph(tabulate, numba.njit(error_model="numpy"))


def compiled_sin_and_cos(x: Any) -> tuple[Any, Any]:
    sines, cosines = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    COMPILED_TABULATE(x, sines, cosines)
    return sines, cosines


def near_multiples(step: float) -> Any:
    """The numbers of single precision on both sides of each multiple of `step`: where the reduction is hardest."""
    x = np.arange(0, LARGEST, step).astype(np.float32)
    below, above = np.nextafter(x, np.float32(-np.inf)), np.nextafter(x, np.float32(np.inf))
    return np.concatenate([x, below, above, -x, -below, -above])


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).uniform(-LARGEST, LARGEST, 2_000_000).astype(np.float32),
        np.random.default_rng(1).uniform(-4, 4, 1_000_000).astype(np.float32),
        near_multiples(math.pi / 4),
        np.array([0, -0.0, 1e-40, 2.0**-126, 1e-8, LARGEST, -LARGEST], np.float32),
    ],
    ids=["wide", "one turn", "quadrants", "special"],
)
def test_error_is_within_the_promise(x: Any) -> None:
    sines, cosines = compiled_sin_and_cos(x)
    assert np.abs(sines - np.sin(x.astype(np.float64))).max() < ERROR
    assert np.abs(cosines - np.cos(x.astype(np.float64))).max() < ERROR
    assert max(np.abs(sines).max(), np.abs(cosines).max()) <= 1 + ERROR


@settings(deadline=None, max_examples=500)
@given(st.floats(-LARGEST, LARGEST, width=32))
@example(-0.0)
@example(1e-45)
@example(float(np.float32(math.pi)))
def test_plain_python_gives_the_same_bits(x: float) -> None:
    (sine,), (cosine,) = compiled_sin_and_cos(np.array([x], np.float32))
    ours = sin(f4(x)), cos(f4(x))
    assert [type(value) for value in ours] == [f4, f4]
    assert np.array(ours, np.float32).tobytes() == np.array([sine, cosine]).tobytes()
    assert (sin(x), cos(x)) == ours, "a double is rounded first"


def test_every_machine_gives_these_bits() -> None:
    x = (np.arange(-400_000, 400_000) * np.float32(1 / 512)).astype(np.float32)
    digest = hashlib.sha256(b"".join(values.astype("<f4").tobytes() for values in compiled_sin_and_cos(x))).hexdigest()
    assert digest == "3ced705efbced90ce1d30bd83542792d3d1a8eccb5e0fd90dc5dfce903a45fa4"


@pytest.mark.parametrize("x", [math.inf, -math.inf, math.nan])
def test_infinity_and_nan_give_nan_when_compiled(x: float) -> None:
    sines, cosines = compiled_sin_and_cos(np.array([x], np.float32))
    assert np.isnan(sines[0]) and np.isnan(cosines[0])
