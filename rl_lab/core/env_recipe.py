"""This module has `EnvRecipe`, from which another process, perhaps on another machine, makes its environments.

RLlib's env runners receive the recipes of all parts of a training's environments, and each makes one part. A recipe is
data that can be pickled.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any

from rl_lab.core.protocols import BatchedEnv


@dataclass(frozen=True)
class EnvRecipe:
    """A recipe for N environments of a training that has more of them: number i of these is number `first + i` of all.

    Where a recipe was made by a package of a higher level, `maker` names the function of that package that makes the
    environments.
    """

    maker: str  # "module:function"; the function takes the recipe and returns a BatchedEnv
    world: str
    params: dict[str, Any]
    num_envs: int
    seed: int  # of all environments of the training
    first: int = 0
    opponent: dict[str, Any] | None = None  # as a scenario has it
    role: str = ""
    threads: int | None = None  # that step the lab's worlds; None lets the engine choose
    code: Any = None  # the file of a world that is a user's own, see `engine.packed_code`
    opponent_files: Any = None  # those of a trained opponent, see `experiments.packed_agent`; None: they are here

    def make(self) -> BatchedEnv:
        """Return the environments, before their first reset."""
        module, _, function = self.maker.partition(":")
        envs: BatchedEnv = getattr(importlib.import_module(module), function)(self)
        return envs

    def split(self, parts: int) -> list[EnvRecipe]:
        """Return recipes of as many equal parts, in order. Raises ValueError where the number is not divisible."""
        size, rest = divmod(self.num_envs, parts)
        if rest or not size:
            nearest = max(self.num_envs // parts, 1) * parts
            raise ValueError(f"worlds={self.num_envs} cannot be divided among {parts} env_runners: {nearest} can")
        return [dataclasses.replace(self, num_envs=size, first=self.first + k * size) for k in range(parts)]
