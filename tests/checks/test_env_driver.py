"""Tests of how checks of third-party environments compare observations."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rl_lab.checks.env_driver import bitwise_equal


def objects(*values: Any) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"x": (np.zeros(2), 1)}, {"x": (np.zeros(2), 1)}, True),
        (np.array([0.0]), np.array([-0.0]), False),
        (np.array([np.nan]), np.array([np.nan]), True),
        (objects("north", None), objects("north", None), True),
        (objects("north", None), objects("south", None), False),
        (objects(np.arange(2), 1), objects(np.arange(2), 1), True),
        (objects(np.arange(2), 1), objects(np.arange(1, 3), 1), False),
        (Fraction(1, 2), Fraction(1, 2), True),
        (Fraction(1, 2), Fraction(1, 3), False),
        (object(), object(), True),  # nothing says that they differ
    ],
)
def test_observations_are_the_same_where_their_values_are(a: Any, b: Any, expected: bool) -> None:
    assert bitwise_equal(a, b) is expected
