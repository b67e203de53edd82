"""Print how the cost of a swarm's step grows with its birds: a Markdown table for docs/benchmarks.md.

Each size is a world of its own, compiled for minutes; they take turns, and medians of rounds are printed.
"""

from __future__ import annotations

import importlib
import math
import statistics
import time

from rl_lab.engine.batch import Batch

SIZES = (256, 1_024, 4_096, 16_384)
ROUNDS, SECONDS = 5, 1.0


def main() -> None:
    """Step one world of each size on one thread, each bird turning its own way."""
    make_world = importlib.import_module("rl_lab.envs.swarm").make_world
    batches = {n: Batch(make_world(n), 1, seed=0, threads=1) for n in SIZES}
    took: dict[int, list[float]] = {n: [] for n in SIZES}
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
            took[n].append((time.perf_counter() - begin) / steps / n)
    print("| birds | ns a bird and step, lowest to highest | birds' steps/s | n log n would be |")
    print("|---|---|---|---|")
    first = statistics.median(took[SIZES[0]])
    for n, seen in took.items():
        cost, grown = statistics.median(seen), math.log(n) / math.log(SIZES[0])
        spread = f"{1e9 * cost:.0f} ({1e9 * min(seen):.0f} to {1e9 * max(seen):.0f})"
        print(f"| {n:,} | {spread} | {1e-6 / cost:.1f} M | {1e9 * first * grown:.0f} |")


if __name__ == "__main__":
    main()
