"""Print what an iteration of rllib_ppo costs env runners, object store and learner: a table for docs/scaling.md.

Two env runners sample CartPole on this machine. Medians of iterations are printed; on a busy machine, they are too
large, and only their proportions mean anything.
"""

from __future__ import annotations

import pickle
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.learners.rllib import collector
from rl_lab.learners.rllib.compiled_update import CompiledUpdate
from rl_lab.learners.rllib.connector import FragmentsToBatch
from rl_lab.learners.rllib.remote_learning import LearnsRemotely

WORLDS, RUNNERS, MINIBATCH, EPOCHS = 512, 2, 1024, 4
LENGTHS = (2, 64)  # steps of a fragment: what does not grow with it, and what does
ITERATIONS = 20
ROWS = {
    "sample": "a runner samples its half",
    "wait": "fragments reach the training's process, beyond that",
    "train_batch": "columns, values and advantages",
    "update": f"{EPOCHS} epochs of compiled updates",
    "_send_weights": "parameters copied for the runners",
}

seconds: dict[str, float] = defaultdict(float)  # of this iteration


def time_calls(owner: Any, name: str) -> None:
    """Add the time of a method's calls to `seconds`."""
    method: Callable[..., Any] = getattr(owner, name)

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - begin

    setattr(owner, name, call)


def measure(length: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return the median seconds of an iteration by row, and the bytes of what travels, for fragments of this length."""
    sizes: dict[str, int] = {}
    words = f"env_runners={RUNNERS} train_batch_size_per_learner={WORLDS * length} minibatch_size={MINIBATCH}"
    words += f" num_epochs={EPOCHS}"
    settings = [f"agent.{word}" for word in words.split()]
    learner: Any = make_learner(compose("cartpole", ["agent=rllib_ppo", f"worlds={WORLDS}", *settings]))[0]
    finish = collector.Collector.finish

    def measured(self: Any) -> Any:
        results = finish(self)
        sizes["fragment"] = len(pickle.dumps(results[0][1], 5))
        return results

    try:
        collector.Collector.finish = measured  # type: ignore[method-assign]
        learner.train_iteration()
        collector.Collector.finish = finish  # type: ignore[method-assign]
        sizes["parameters"] = len(pickle.dumps(learner.save_agent().tensors["policy"], 5))
        seen: list[dict[str, float]] = []
        for _ in range(ITERATIONS + 3):
            before = learner.seconds
            seconds.clear()
            learner.train_iteration()
            after = learner.seconds
            spent = {name: after[name] - before[name] for name in after}
            seen.append({**seconds, "sample": spent["env"] + spent["infer"], "wait": spent["wait"]})
        return {name: statistics.median(each[name] for each in seen[3:]) for name in ROWS}, sizes
    finally:
        learner.close()


def main() -> None:
    """Measure both lengths and print the table."""
    time_calls(FragmentsToBatch, "train_batch")
    time_calls(CompiledUpdate, "update")
    time_calls(LearnsRemotely, "_send_weights")
    short, long = (measure(length) for length in LENGTHS)
    steps = [WORLDS * length for length in LENGTHS]
    print(
        f"| of an iteration | {steps[0]:,} steps | {steps[1]:,} steps | a step, by the difference |\n|---|---|---|---|"
    )
    for name, label in ROWS.items():
        low, high = short[0][name], long[0][name]
        slope = f"{1e9 * (high - low) / (steps[1] - steps[0]):.0f} ns"
        print(f"| {label} | {1e3 * low:.2f} ms | {1e3 * high:.2f} ms | {slope} |")
    for name, label in (("fragment", "bytes of a runner's fragment"), ("parameters", "bytes of the parameters")):
        low, high = short[1][name], long[1][name]
        slope = f"{RUNNERS * (high - low) / (steps[1] - steps[0]):.1f}" if name == "fragment" else "-"
        print(f"| {label} | {low:,} | {high:,} | {slope} |")


if __name__ == "__main__":
    main()
