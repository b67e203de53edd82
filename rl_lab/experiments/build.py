"""Build what a scenario describes: its learner over its environments, and its opponents; and evaluate an agent by it.

`trainer`, `rl-lab evaluate`, `rl-lab watch` and the benchmarks call these functions. `make_learner` sets torch's number
of threads for this process, and with `agent.env_runners` it starts processes.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from gymnasium.spaces import Discrete

from rl_lab.adapters import make as batch
from rl_lab.core import agent_registry
from rl_lab.core.agent import Agent, Learner, StateDict
from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array
from rl_lab.evaluation.action_modes import (
    MODE_NAMES,
    evaluation_modes,
    is_stochastic,
    opponent_is_deterministic,
    other_mode_figures,
)
from rl_lab.evaluation.episodes import EpisodePlan, PlayPlans, play_in_this_process
from rl_lab.evaluation.evaluate import EVALUATION_SEED, Evaluation, assemble
from rl_lab.experiments.agent_loading import device_of
from rl_lab.experiments.multiagent_config import seats_of
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_envs import make_agent, make_envs, packed_recipe_of, recipe_of
from rl_lab.league.joint_envs import JointEnvs
from rl_lab.league.league import League
from rl_lab.league.opponents import LeagueOpponents
from rl_lab.learners.rllib.distributed_envs import DistributedEnvs
from rl_lab.multiagent.match_runner import seat_rotation
from rl_lab.multiagent.multi_policy import MultiPolicyLearner
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

# In a league, the worlds of learner k are numbered from k times this number, so that no two have the same random
# numbers.
_SEEDS_PER_LEARNER = 2**20


class TrainingEnvs(Protocol):
    """The methods of a learner's environments that a training uses."""

    @property
    def world(self) -> EnvSpec: ...  # noqa: D102
    def snapshot(self) -> dict[str, Array]: ...  # noqa: D102
    def restore(self, snapshot: dict[str, Array]) -> None: ...  # noqa: D102
    def drain_log(self) -> dict[str, float]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


def make_learner(scenario: Scenario) -> tuple[Learner, TrainingEnvs]:
    """Return the scenario's learner over its worlds, at its start. Raises UsageError where they do not go together."""
    factory = agent_registry.load(scenario.agent)
    if not hasattr(factory, "learner"):
        command = f"rl-lab evaluate {scenario.agent} world={scenario.world}"
        raise UsageError(f"agent {scenario.agent} does not learn; measure it with: {command}")
    import torch

    # The only place where torch's threads are set. The engine sets its own for each batch.
    torch.set_num_threads(scenario.threads)
    try:
        device = device_of(scenario.device)

        more = {} if scenario.backbone is None else {"backbone": scenario.backbone}

        def learner_over(envs: Any, budget: int, seed: int) -> Learner:
            learner: Learner = factory.learner(scenario.config, envs, budget=budget, seed=seed, device=device, **more)
            return learner

        if scenario.league is not None:
            if getattr(scenario.config, "env_runners", 0):
                raise ValueError("a league trains in one process: it needs agent.env_runners=0")
            _refuse_cluster(scenario)
            return _make_league(scenario, learner_over, device)
        if (parts := getattr(scenario.config, "env_runners", 0)) > 0:
            if scenario.policies:
                raise ValueError("several policies train in one process: they need agent.env_runners=0")
            threads = max(int(scenario.config.cpus_per_runner), 1)
            recipe = replace(packed_recipe_of(scenario), threads=threads)
            remote = DistributedEnvs(recipe, parts, cluster=scenario.cluster)
            return learner_over(remote, scenario.budget, scenario.seed), remote
        _refuse_cluster(scenario)
        envs = make_envs(recipe_of(scenario))
        if scenario.policies:
            policies = seats_of(envs.world, scenario.policies)
            return MultiPolicyLearner(envs, policies, learner_over, budget=scenario.budget, seed=scenario.seed), envs
        return learner_over(envs, scenario.budget, scenario.seed), envs
    except MemoryError as error:
        raise UsageError(f"worlds, n_steps or buffer_size are too large for this machine: {error}") from error
    except RuntimeError as error:  # torch's, for tensors that cannot be
        if not re.search("alloc|memory|too large|overflow", str(error)):
            raise
        raise UsageError(f"this machine cannot hold it: {str(error).partition(chr(10))[0]}") from error
    except (ValueError, AssertionError) as error:  # SB3 asserts its own arguments
        message = str(error).partition("\n")[0]
        # An assertion of SB3 may have no message.
        message = message or f"the agent cannot be made: {type(error).__name__}{_raised_at(error)}"
        raise UsageError(message) from error


def _refuse_cluster(scenario: Scenario) -> None:
    """Raise ValueError where a cluster is named, and nothing of the scenario would run there."""
    if scenario.cluster != "local":
        missing = (
            "agent.env_runners=2" if hasattr(scenario.config, "env_runners") else "agent=rllib_ppo agent.env_runners=2"
        )
        raise ValueError(f"cluster={scenario.cluster}: this scenario runs in one process; for a cluster, add {missing}")


def _raised_at(error: BaseException) -> str:
    """Return the file and line where an error was raised, in parentheses."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _make_league(
    scenario: Scenario, learner_over: Callable[[BatchedEnv, int, int], Learner], device: str
) -> tuple[Learner, TrainingEnvs]:
    """Return the league of a scenario and its learners' environments; `learner_over(envs, budget, seed)` makes one."""
    config = scenario.league
    assert config is not None
    one_env = batch.make(scenario.world, 1, scenario.params)
    if not isinstance(one_env.world.action, Discrete) or scenario.worlds > _SEEDS_PER_LEARNER:
        raise ValueError(f"league: needs discrete actions, and at most {_SEEDS_PER_LEARNER:,} worlds")
    # In self-play, a learner sees the environment as one agent at any of its seats.
    learner_spec, names = OpponentsWrapper(one_env, []).world, list(config.learners())
    envs_of: dict[str, OpponentsWrapper] = {}  # by the learner's name

    def make_envs(index: int, opponents: LeagueOpponents) -> OpponentsWrapper:
        # Each step moves only some of these worlds, and starting threads for them would cost more than it saves.
        envs = batch.make(scenario.world, scenario.worlds, scenario.params, seed=scenario.seed, threads=1)
        wrapped = envs_of[names[index]] = OpponentsWrapper(
            envs, opponents, seed=scenario.seed, random_opening_moves=config.random_opening_moves
        )
        wrapped.seed(scenario.seed, index * _SEEDS_PER_LEARNER)
        return wrapped

    def load_snapshot(state_dict: StateDict) -> Agent:
        agent: Agent = agent_registry.load(scenario.agent).load(
            scenario.config, learner_spec, state_dict, device=device
        )
        return agent

    def make_anchors() -> list[Agent]:
        return [make_agent(node, one_env.world) for node in config.anchors]

    league = League(
        config,
        learner_over,
        load_snapshot,
        make_envs,
        make_anchors,
        settings=scenario.config,
        budget=scenario.budget,
        seed=scenario.seed,
    )
    return league, JointEnvs(envs_of)


def evaluate_scenario(
    agent: Agent,
    scenario: Scenario,
    progress: Callable[..., None] | None = None,
    play: PlayPlans = play_in_this_process,
) -> Evaluation:
    """Evaluate an agent as a scenario says: its episodes, on the evaluation seeds.

    Where greedy and sampled actions may differ and `evaluation.actions` does not say which, both are measured: the
    summary is of those by which the agent was chosen, and has a few figures of the others under "other". The
    opponent plays both times in the same mode. `play` plays the episodes, by default in this process; `progress` is
    called as in `evaluate`.
    """
    config = scenario.evaluation
    modes = evaluation_modes(agent, config.actions, deterministic=config.deterministic)
    plans: list[tuple[EpisodePlan, Agent | None]] = [
        (
            EpisodePlan(
                scenario.world,
                scenario.params,
                config.episodes,
                EVALUATION_SEED,
                deterministic=deterministic,
                opponent_deterministic=opponent_is_deterministic(modes),
                role=scenario.role,
            ),
            make_opponent(scenario),
        )
        for deterministic in modes
    ]
    parts_of_plans = play(agent, plans, progress)
    evaluations = [
        assemble(plan, parts, agent, opponent) for (plan, opponent), parts in zip(plans, parts_of_plans, strict=True)
    ]
    reported = evaluations[0]
    if is_stochastic(agent):
        reported.summary["actions"] = MODE_NAMES[modes[0]]
    if len(evaluations) > 1:
        reported.summary["other"] = other_mode_figures(*evaluations)
    return reported


def opponent_of(scenario: Scenario, world: EnvSpec) -> Agent | None:
    """Return the scenario's opponent, made for this world; None without one. Raises ValueError where it cannot be.

    In a league, it is the last of the anchors, against which its agent is evaluated where no other opponent is named.
    """
    opponents = evaluation_opponents(scenario, world)
    return opponents[-1] if opponents else None


def evaluation_opponents(scenario: Scenario, world: EnvSpec) -> list[Agent]:
    """Return the opponents of evaluations during training: the scenario's opponent, or else a league's anchors."""
    if scenario.opponent is not None:
        return [make_agent(scenario.opponent, world)]
    return [make_agent(node, world) for node in scenario.league.anchors] if scenario.league is not None else []


def make_opponent(scenario: Scenario) -> Agent | None:
    """Return the scenario's opponent, if it has one. Raises UsageError where it cannot play this world."""
    if scenario.opponent is None and (scenario.league is None or not scenario.league.anchors):
        return None
    envs = batch.make(scenario.world, 1, scenario.params)
    try:
        if len(envs.world.agents) == 1:
            raise ValueError(f"{envs.world.name} has one agent, which cannot have an opponent")
        seat_rotation(envs.world, scenario.role)
        return opponent_of(scenario, envs.world)
    except ValueError as error:
        raise UsageError(f"opponent: {error}") from None
    finally:
        envs.close()
