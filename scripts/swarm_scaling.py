"""Measure how the time of one step of the world swarm grows with its number of birds; print a Markdown table.

The table is pasted into docs/benchmarks.md; no file is written but numba's cache. Each size is a world of its own, and
is compiled for minutes. In each round, the sizes are stepped one after the other, so that noise of the machine affects
all of them alike; medians over rounds are printed.
"""

from __future__ import annotations

import importlib
import math
import statistics
import time

from rl_lab.engine.batch import Batch

SIZES = (256, 1_024, 4_096, 16_384)
ROUNDS = 5
SECONDS = 1.0  # of stepping one size in one round


def main() -> None:
    """Step one world of each size on one thread, each bird with its own random action, and print the table."""
    make_world = importlib.import_module("rl_lab.envs.swarm").make_world
    batches = {n: Batch(make_world(n), 1, seed=0, threads=1) for n in SIZES}
    seconds_per_bird: dict[int, list[float]] = {n: [] for n in SIZES}
    for batch in batches.values():
        batch.reset()
        batch.random_actions()
        batch.step()
    for _ in range(ROUNDS):
        for n, batch in batches.items():
            steps, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < SECONDS:
                batch.step()
                steps += 1
            seconds_per_bird[n].append((time.perf_counter() - begin) / steps / n)
    print("| birds | ns a bird and step, lowest to highest | birds' steps/s | ns if the cost grew as n log n |")
    print("|---|---|---|---|")
    first_cost = statistics.median(seconds_per_bird[SIZES[0]])
    for n, costs in seconds_per_bird.items():
        cost = statistics.median(costs)
        n_log_n_cost = first_cost * math.log(n) / math.log(SIZES[0])  # of one bird, if a step took n log n
        spread = f"{1e9 * cost:.0f} ({1e9 * min(costs):.0f} to {1e9 * max(costs):.0f})"
        print(f"| {n:,} | {spread} | {1e-6 / cost:.1f} M | {1e9 * n_log_n_cost:.0f} |")


if __name__ == "__main__":
    main()
