"""What a scenario is made into: its learner at its worlds, the agent that was kept, and their opponents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gymnasium.spaces import Discrete

from . import batch, catalogue
from .agent import Agent, Learner, Saved
from .batch import WorldInfo, Worlds
from .casting import seats_of
from .evaluate import Evaluation, evaluate
from .league.league import League
from .league.roster import Roster
from .league.stage import Stage
from .names import UsageError
from .player import roles_played
from .rivals import Rivals
from .scenario import Scenario
from .seated import Seated
from .team import Team
from .trained import device_of, frozen
from .world import Array

_APART = 2**20  # between the numbers of the first worlds of a league's learners


class Ground(Protocol):
    """What a training asks of the worlds in which its learner learns."""

    @property
    def world(self) -> WorldInfo: ...  # noqa: D102
    def snapshot(self) -> dict[str, Array]: ...  # noqa: D102
    def restore(self, snapshot: dict[str, Array]) -> None: ...  # noqa: D102
    def drain_log(self) -> dict[str, float]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


def make_learner(scenario: Scenario) -> tuple[Learner, Ground]:
    """Return the scenario's learner over its worlds, at its start. Raises UsageError where they do not go together."""
    factory = catalogue.load(scenario.agent)
    if not hasattr(factory, "learner"):
        measure = f"rl-lab evaluate {scenario.agent} world={scenario.world}"
        raise UsageError(f"agent {scenario.agent} does not learn; measure it with: {measure}")
    import torch

    # The only place where torch's threads are set. The engine sets its own for each batch.
    torch.set_num_threads(scenario.threads)
    try:
        device = device_of(scenario.device)

        def make(view: Worlds, budget: int, seed: int) -> Learner:
            learner: Learner = factory.learner(scenario.config, view, budget=budget, seed=seed, device=device)
            return learner

        if scenario.league is not None:
            return _make_league(scenario, make, device)
        worlds = batch.make(scenario.world, scenario.worlds, scenario.params, seed=scenario.seed)
        if scenario.opponent is not None:
            rivals = _rivals(scenario.opponent, worlds.world)
            worlds = Seated(worlds, rivals, role=scenario.role, seed=scenario.seed)
        if scenario.policies:
            policies = seats_of(worlds.world, scenario.policies)
            return Team(worlds, policies, make, budget=scenario.budget, seed=scenario.seed), worlds
        return make(worlds, scenario.budget, scenario.seed), worlds
    except MemoryError as error:
        raise UsageError(f"worlds, n_steps or buffer_size are too large for this machine: {error}") from error
    except (ValueError, AssertionError) as error:  # SB3 asserts its own arguments
        raise UsageError(str(error).partition("\n")[0]) from error


def _make_league(
    scenario: Scenario, make: Callable[[Worlds, int, int], Learner], device: str
) -> tuple[Learner, Ground]:
    config = scenario.league
    assert config is not None
    whole = batch.make(scenario.world, 1, scenario.params)
    if not isinstance(whole.world.action, Discrete) or scenario.worlds > _APART:
        raise ValueError(f"league: needs discrete actions, and at most {_APART:,} worlds")
    seated, names = Seated(whole, []).world, list(config.learners())
    views: dict[str, Seated] = {}

    def seat(index: int, roster: Roster) -> Seated:
        # Some of them move at a time, and threads would be in each other's way.
        worlds = batch.make(scenario.world, scenario.worlds, scenario.params, seed=scenario.seed, threads=1)
        view = views[names[index]] = Seated(worlds, roster, seed=scenario.seed, opening=config.opening)
        view.seed(scenario.seed, index * _APART)  # no two learners' worlds draw alike
        return view

    def load(saved: Saved) -> Agent:
        agent: Agent = catalogue.load(scenario.agent).load(scenario.config, seated, saved, device=device)
        return agent

    def anchors() -> list[Agent]:
        return [_made(node, whole.world) for node in config.anchors]

    named: dict[str, Any] = {"settings": scenario.config, "budget": scenario.budget, "seed": scenario.seed}
    return League(config, make, load, seat, anchors, **named), Stage(views)


def measure(agent: Agent, scenario: Scenario, watch: Callable[..., None] | None = None) -> Evaluation:
    """Evaluate an agent as a scenario says: its episodes, on the evaluation seeds."""
    return evaluate(
        agent,
        scenario.world,
        scenario.params,
        episodes=scenario.evaluation.episodes,
        opponent=make_opponent(scenario),
        role=scenario.role,
        deterministic=scenario.evaluation.deterministic,
        progress=watch,
    )


def opponent_of(scenario: Scenario, world: WorldInfo) -> Agent | None:
    """Return the scenario's opponent, made for this world; None without one. Raises ValueError where it cannot be.

    In a league it is whom its agent is measured against if nobody else is named: the last of the anchors.
    """
    judges = judges_of(scenario, world)
    return judges[-1] if judges else None


def judges_of(scenario: Scenario, world: WorldInfo) -> list[Agent]:
    """Return whom agents are measured against while they learn: the opponent, or else all of a league's anchors."""
    if scenario.opponent is not None:
        return [_made(scenario.opponent, world)]
    return [_made(node, world) for node in scenario.league.anchors] if scenario.league is not None else []


def _rivals(node: dict[str, Any], world: WorldInfo) -> Rivals:
    """Return whom a learner meets where this is its opponent."""
    return frozen(node).rivals(world) if "path" in node else Rivals([_made(node, world)])


def _made(node: dict[str, Any], world: WorldInfo) -> Agent:
    if "path" in node:
        return frozen(node).agent(world)
    factory: Any = catalogue.load(node["name"])
    agent: Agent = factory.make(factory.Config(**{key: v for key, v in node.items() if key != "name"}), world)
    return agent


def make_opponent(scenario: Scenario) -> Agent | None:
    """Return the scenario's opponent, if it has one. Raises UsageError where it cannot play this world."""
    if scenario.opponent is None and (scenario.league is None or not scenario.league.anchors):
        return None
    worlds = batch.make(scenario.world, 1, scenario.params)
    try:
        if len(worlds.world.agents) == 1:
            raise ValueError(f"{worlds.world.name} has one agent: nobody can be its opponent")
        roles_played(worlds.world, scenario.role)
        return opponent_of(scenario, worlds.world)
    except ValueError as error:
        raise UsageError(f"opponent: {error}") from None
    finally:
        worlds.close()
