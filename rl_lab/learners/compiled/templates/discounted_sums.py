"""Discounted sums from the last row to the first. A template, executed by `build`: see `engine/template_context.py`."""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators

jit = decorators().jit


@jit
def discounted_sums(deltas: Any, factors: Any, sums: Any) -> None:
    """Set sums[t] to deltas[t] + factors[t] * sums[t + 1]; all are float64 [R], and beyond the last row is 0."""
    following = 0.0
    for t in range(len(deltas) - 1, -1, -1):
        following = deltas[t] + factors[t] * following
        sums[t] = following
