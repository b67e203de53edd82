"""Measure contenders in turns, and summarize their rates: the common part of all benchmarks.

A contender is one implementation of the work: the lab's or a peer's. In each round, every contender runs for some time;
rates and ratios are medians over rounds, with the lowest and the highest. So noise of the machine affects all
contenders alike, and ratios least. With five rounds, the true median lies between the lowest and the highest value with
a probability of 94 %.
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
    """One implementation of the work; `run()` does a part of it and returns the number of agent steps."""

    what: str  # its name in the table
    kind: str  # of benchmark: env, rollout or train
    conditions: str  # sizes and threads, for the table
    run: Callable[[], int]
    cold_seconds: float  # time to the first step, including imports and compilation
    extra_entries: dict[str, Any] = field(default_factory=dict)  # of its row


def alternate(contenders: list[Contender], lab: int, *, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each contender, as `summarize` makes it.

    Contender number `lab` is the lab's; the peers come after it. Their rows have a `ratio`, the lab's rate divided by
    theirs. If `lab` is not 0, contender 0 is the lab's engine, and they have an `engine_ratio`, too.
    """
    rates: list[list[float]] = [[] for _ in contenders]
    cores: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        measure_rate(contender.run, seconds / 4)  # warm-up
    for _ in range(rounds):
        for k, contender in enumerate(contenders):
            rate, used_cores = measure_rate(contender.run, seconds)
            rates[k].append(rate)
            cores[k].append(used_cores)
    return [
        summarize(c, rates[k], cores[k], rates[lab] if k > lab else None, rates[0] if lab else None)
        for k, c in enumerate(contenders)
    ]


def measure_rate(run: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Call `run` for some seconds; return its steps per second and the number of cores that it kept busy."""
    steps, begin, process_begin = 0, time.perf_counter(), time.process_time()
    while True:
        steps += run()
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds:
            return steps / elapsed, (time.process_time() - process_begin) / elapsed


def summarize(
    contender: Contender,
    rates: list[float],
    cores: list[float],
    lab_rates: list[float] | None,
    engine_rates: list[float] | None = None,
) -> dict[str, Any]:
    """Return a contender's row: its rate, the cores that it used, and ratios of other rates to its own, round by round.

    `cores` are processor seconds of this process per second.
    """
    row = {
        "what": contender.what,
        "kind": contender.kind,
        "conditions": contender.conditions,
        "cold_seconds": round(contender.cold_seconds, 3),
        "steps_per_second": spread(rates),
        "cores": round(statistics.median(cores), 2),
        **contender.extra_entries,
    }
    if lab_rates is not None:
        row["ratio"] = spread([lab / peer for lab, peer in zip(lab_rates, rates, strict=True)])
        if engine_rates is not None:
            row["engine_ratio"] = spread([engine / peer for engine, peer in zip(engine_rates, rates, strict=True)])
    return row


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def interval(values: list[float]) -> dict[str, float | None]:
    """Return the median and its interval: two order statistics between which the median lies with at least 95 %.

    With fewer than six values, they are the lowest and the highest. Infinite values stand for an event that did not
    occur. A median or limit that is infinite is returned as None.

    Source: the sign test's interval, e.g. Conover 1999, section 3.2
    """
    ordered, n = sorted(values), len(values)
    cut, below = 0, 0.5**n  # `below` is the probability that at most `cut` of n values lie below the median
    while below + math.comb(n, cut + 1) * 0.5**n <= 0.025:
        cut += 1
        below += math.comb(n, cut) * 0.5**n
    limits = {"median": statistics.median(ordered), "low": ordered[cut], "high": ordered[n - 1 - cut]}
    return {name: value if math.isfinite(value) else None for name, value in limits.items()}
