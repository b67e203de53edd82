"""The benchmark `rl-lab bench rollout --runners`: sampling by RLlib's PPO with env runners in other processes.

Each measurement starts a private Ray and ends it again, because a process has one cluster at a time. The numbers of
runners take turns in each round.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from rl_lab.bench.settings import Setting
from rl_lab.bench.timing import Contender, measure_rate, spread, summarize
from rl_lab.core import agent_registry
from rl_lab.core.env_recipe import EnvRecipe


def scaling(
    world: str, setting: Setting, counts: Sequence[int], *, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return a row for each number of env runners, with one CPU each; `timing.summarize` describes the rows.

    Rows after the first have a `speedup`, their rate divided by that of the first in the same round. `cores` are those
    that this process used, which sends parameters to the runners and receives fragments.

    Raises:
        UsageError: this machine has too few CPUs.
        ValueError: the setting's environments cannot be divided equally among the runners.
    """
    rates: list[list[float]] = [[] for _ in counts]
    cores: list[list[float]] = [[] for _ in counts]
    contenders: dict[int, Contender] = {}
    for _, (k, count) in itertools.product(range(rounds), enumerate(counts)):
        begin = time.perf_counter()
        learner = _learner(world, setting, count)
        with closing(learner):
            run = _sampling(learner)
            run()
            text = f"{setting.describe()}, {count} env runner{'s' * (count > 1)}; cores are those of the driver"
            cold = time.perf_counter() - begin
            contenders.setdefault(k, Contender("rl_lab rllib_ppo", "rollout", text, run, cold, {"runners": count}))
            measure_rate(run, seconds / 4)  # warm-up
            rate, used_cores = measure_rate(run, seconds)
            rates[k].append(rate)
            cores[k].append(used_cores)
    rows = [summarize(contenders[k], rates[k], cores[k], None) for k in range(len(counts))]
    for row, own in list(zip(rows, rates, strict=True))[1:]:
        row["speedup"] = spread([rate / first for rate, first in zip(own, rates[0], strict=True)])
    return rows


def _learner(world: str, setting: Setting, count: int) -> Any:
    """Return a learner that samples with `count` env runners."""
    from rl_lab.learners.rllib.distributed_envs import DistributedEnvs

    factory: Any = agent_registry.load(setting.agent)
    recipe = EnvRecipe("rl_lab.bench.env_runners:make_envs", world, {}, setting.num_envs, seed=0, threads=1)
    envs = DistributedEnvs(recipe, count, cluster="local")
    config = factory.Config(**setting.config, env_runners=count)
    return factory.learner(config, envs, budget=2**60, seed=0, device="cpu")


def make_envs(recipe: EnvRecipe) -> Any:
    """Return the environments of a runner."""
    from rl_lab.adapters import make

    envs = make.make(recipe.world, recipe.num_envs, recipe.params, seed=recipe.seed, threads=recipe.threads)
    if recipe.first:
        envs.seed(recipe.seed, recipe.first)
    return envs


def _sampling(learner: Any) -> Callable[[], int]:
    """Return a function that samples one train batch with the runners and returns the number of steps."""
    from rl_lab.learners.sb3.training_state import as_arrays

    weights, numbers = as_arrays(learner.agent().policy.state_dict()), itertools.count()

    def run() -> int:
        return sum(len(part.fragment) for _, part in learner.collector.collect(next(numbers), weights))

    return run


def long_fragments(setting: Setting, steps: int) -> Setting:
    """Return the setting with so many steps of each environment in a train batch."""
    return dataclasses.replace(
        setting, config={**setting.config, "train_batch_size_per_learner": steps * setting.num_envs}
    )
