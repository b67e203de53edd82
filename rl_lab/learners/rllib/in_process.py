"""RLlib's env runner and learner in this process, without Ray's own processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ray._private import auto_init_hook
from ray.rllib.core import DEFAULT_MODULE_ID

from rl_lab.learners.rllib.cluster import LOGGERS


@dataclass(frozen=True)
class InProcess:
    """The parts of an `Algorithm` of RLlib's that the lab uses: `Algorithm` itself starts Ray, which takes seconds."""

    config: Any
    env_runner: Any
    learner_group: Any


class NoCluster:
    """Stands for the cluster where no process is started."""

    def check(self) -> None:
        """Do nothing: there is no head node that could be gone."""

    def close(self) -> None:
        """Do nothing."""


def build(config: Any) -> InProcess:
    """Return the env runner and the learner of an `AlgorithmConfig`; RLlib prints nothing from now on."""
    auto_init_hook.enable_auto_connect = False  # RLlib calls Ray here and there, which would start it
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False
    spaces = config.observation_space, config.action_space
    runner = config.env_runner_cls(config=config)
    learner_group = config.build_learner_group(spaces={"__env__": spaces, DEFAULT_MODULE_ID: spaces})
    return InProcess(config, runner, learner_group)
