"""Checks of the settings that say how many processes sample and learn, and what each of them has. Needs no Ray."""

from __future__ import annotations

import math
from typing import Any


def check_processes(config: Any, *, divides_fragments: bool) -> None:
    """Raise ValueError where an agent's settings of env runners and learners do not go together.

    `divides_fragments` where each learner updates from the fragments of its own env runners.
    """
    learners, runners = config.learners, config.env_runners
    if config.gpus_per_learner and not learners:
        raise ValueError("gpus_per_learner needs learners=1 or more; the learner of this process follows device=cuda")
    if config.gpus_per_env_runner and not runners:
        raise ValueError("gpus_per_env_runner needs env_runners=1 or more; this process samples on its CPUs")
    if not learners:
        return
    if divides_fragments and (not runners or runners % learners):
        nearest = max(runners // learners, 1) * learners
        raise ValueError(f"learners={learners} share the fragments of env_runners={runners}: {nearest} can be shared")
    if not runners:
        raise ValueError(f"learners={learners} need env_runners=1 or more, which sample for them")


def gpus_of_runners(config: Any) -> int:
    """Return the number of GPUs that the env runners need; several share one where each has a fraction."""
    share = config.gpus_per_env_runner
    return math.ceil(config.env_runners / int(1 / share + 1e-9)) if share else 0


def gpus_of_learners(config: Any) -> int:
    """Return the number of GPUs that the learners need."""
    return int(config.learners * config.gpus_per_learner)
