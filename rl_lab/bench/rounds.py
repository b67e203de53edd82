"""What a benchmark is made of: contenders that take turns, and what is said of the figures of many rounds.

In each round every contender runs in turn for a while; rates and ratios are medians over rounds with the lowest and
highest, so that a noisy machine disturbs all alike and ratios least. With five rounds, a median lies between the lowest
and the highest of them with a probability of 94 %.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contender:
    """One way to do the work; `run()` does some and returns the steps it took, of every agent that acted."""

    what: str
    kind: str
    conditions: str
    run: Callable[[], int]
    cold_seconds: float  # from nothing to the first step taken, compiling and importing included
    more: dict[str, Any] = field(default_factory=dict)  # further entries of its row


def alternate(contenders: list[Contender], own: int, *, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row a contender: its rate, the cores it kept busy and, after number `own`, how many times as fast it is.

    If `own` is not the first, a second ratio, `engine_ratio`, compares with the first.
    """
    rates: list[list[float]] = [[] for _ in contenders]
    cores: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        _rate(contender, seconds / 4)  # warm
    for _ in range(rounds):
        for contender, seen, busy in zip(contenders, rates, cores, strict=True):
            rate, used = _rate(contender, seconds)
            seen.append(rate)
            busy.append(used)
    return [
        _row(c, seen, busy, rates[own] if k > own else None, rates[0] if own else None)
        for k, (c, seen, busy) in enumerate(zip(contenders, rates, cores, strict=True))
    ]


def _rate(contender: Contender, seconds: float) -> tuple[float, float]:
    """Return steps a second, and processor seconds of all threads a second."""
    steps, begin, used = 0, time.perf_counter(), time.process_time()
    while True:
        steps += contender.run()
        spent = time.perf_counter() - begin
        if spent >= seconds:
            return steps / spent, (time.process_time() - used) / spent


def _row(
    contender: Contender,
    rates: list[float],
    cores: list[float],
    own: list[float] | None,
    engine: list[float] | None,
) -> dict[str, Any]:
    row = {
        "what": contender.what,
        "kind": contender.kind,
        "conditions": contender.conditions,
        "cold_seconds": round(contender.cold_seconds, 3),
        "steps_per_second": spread(rates),
        "cores": round(statistics.median(cores), 2),
        **contender.more,
    }
    if own is not None:
        row["ratio"] = spread([mine / theirs for mine, theirs in zip(own, rates, strict=True)])
        if engine is not None:
            row["engine_ratio"] = spread([mine / theirs for mine, theirs in zip(engine, rates, strict=True)])
    return row


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def interval(values: list[float]) -> dict[str, float | None]:
    """Return the median and its interval: the two order statistics between which it lies with at least 95 %.

    They are the lowest and the highest of fewer than six. Infinite values, of what never came, count; where the
    median or a limit is one, it is None.

    Source: the sign test's interval, e.g. Conover 1999, section 3.2
    """
    ordered, n = sorted(values), len(values)
    cut, below = 0, 0.5**n  # probability that at most `cut` of n values lie below their median
    while below + math.comb(n, cut + 1) * 0.5**n <= 0.025:
        cut += 1
        below += math.comb(n, cut) * 0.5**n
    found = {"median": statistics.median(ordered), "low": ordered[cut], "high": ordered[n - 1 - cut]}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
