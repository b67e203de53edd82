"""Make the environments that a scenario's learner trains in, with the scenario's opponent if it has one.

`recipe_of` returns an `EnvRecipe`, which is data that can be pickled; `make_envs` makes the environments from it, in
this process or in an env runner's on another machine. `make_agent` makes an opponent or another agent that a scenario
describes. Files of a trained opponent that came with the recipe are written to the user's cache folder.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rl_lab.adapters import make as batch
from rl_lab.core import agent_registry
from rl_lab.core.agent import Agent
from rl_lab.core.env_recipe import EnvRecipe
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.engine import packed_code
from rl_lab.experiments.frozen_agent import frozen_agent
from rl_lab.experiments.packed_scenario import pack_scenario
from rl_lab.experiments.scenario import Scenario
from rl_lab.multiagent.opponent_mixture import OpponentMixture
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


def recipe_of(scenario: Scenario) -> EnvRecipe:
    """Return the recipe of the environments of a scenario. Raises UsageError where a user's code may not run."""
    return EnvRecipe(
        f"{__name__}:{make_envs.__name__}",
        scenario.world,
        scenario.params,
        scenario.worlds,
        scenario.seed,
        opponent=scenario.opponent,
        role=scenario.role,
        code=packed_code.pack(scenario.world),
    )


def packed_recipe_of(scenario: Scenario) -> EnvRecipe:
    """Return the recipe for processes that may run on machines without the user's files: it has all of them.

    Raises as `recipe_of`, and UsageError where a trained opponent cannot be read.
    """
    packed = pack_scenario(scenario)
    return replace(recipe_of(scenario), code=packed.code, opponent_files=packed.opponent)


def make_envs(recipe: EnvRecipe) -> BatchedEnv:
    """Return the environments of a recipe."""
    if recipe.code is not None:
        recipe.code.permit()
    envs = batch.make(recipe.world, recipe.num_envs, recipe.params, seed=recipe.seed, threads=recipe.threads)
    if recipe.opponent is not None:
        node = recipe.opponent
        if recipe.opponent_files is not None:  # its hash in `node` is verified where it is loaded
            node = {**node, "path": recipe.opponent_files.unpack()}
        if "seed" in node:  # else the opponents in all parts of the environments would have the same random numbers
            node = {**node, "seed": node["seed"] + recipe.first}
        opponents = _opponents(node, envs.world)
        envs = OpponentsWrapper(envs, opponents, role=recipe.role, seed=recipe.seed)
    if recipe.first:
        envs.seed(recipe.seed, recipe.first)
    return envs


def make_agent(node: dict[str, Any], world: EnvSpec) -> Agent:
    """Return an agent for this world that a scenario describes, trained or one that needs no training."""
    if "path" in node:
        return frozen_agent(node).agent(world)
    factory: Any = agent_registry.load(node["name"])
    agent: Agent = factory.make(factory.Config(**{key: v for key, v in node.items() if key != "name"}), world)
    return agent


def _opponents(node: dict[str, Any], world: EnvSpec) -> OpponentMixture:
    """Return the mixture of opponents that a learner plays against, from the scenario's `opponent`."""
    return frozen_agent(node).opponents(world) if "path" in node else OpponentMixture([make_agent(node, world)])
