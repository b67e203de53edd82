"""Discounted sums from the last row to the first, such as returns or generalised advantage estimates.

A template, executed by `build` alone: see `engine/template_context.py`. `learners/rllib/advantages.py` calls it.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators

jit = decorators().jit


@jit
def discounted_sums(deltas: Any, factors: Any, sums: Any) -> None:
    """Write sums[t] = deltas[t] + factors[t] * sums[t + 1]; all are float64 [R], and beyond the last row is 0."""
    next_sum = 0.0
    for t in range(len(deltas) - 1, -1, -1):
        next_sum = deltas[t] + factors[t] * next_sum
        sums[t] = next_sum
