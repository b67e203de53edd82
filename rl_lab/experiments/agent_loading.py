"""Load trained agents from checkpoints: of an agent's folder, of a league's snapshot, or of a whole state.

`read_agent` reads and verifies the files, and `build_agent` makes an agent of them; `load_agent` does both. The steps
are apart because `frozen_agent` compares a hash of the content between them. Nothing in a checkpoint is executed, and
nothing is written. `checkpoint_lookup` finds the folder that a user's RUN or RUN@STEP names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl_lab.adapters import make
from rl_lab.core import agent_registry, checkpoint
from rl_lab.core.agent import Agent, StateDict
from rl_lab.core.errors import UsageError
from rl_lab.experiments import whole_state
from rl_lab.experiments.checkpoint_lookup import locate
from rl_lab.experiments.multiagent_config import seats_of
from rl_lab.experiments.scenario import Scenario
from rl_lab.multiagent.multi_policy import AgentSubsetView, LockstepScheduler, split
from rl_lab.multiagent.multi_policy_agent import MultiPolicyAgent
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


def device_of(name: str) -> str:
    """Return "cpu" or "cuda" for a scenario's device; ValueError for cuda where there is none."""
    if name == "cpu":
        return "cpu"
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: this machine has no CUDA device; use device=auto or device=cpu")
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def as_usage_error(path: Path) -> Iterator[None]:
    """Convert any error from a checkpoint's content into one line: content with valid hashes may still not fit."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # libraries raise many kinds for values that they do not expect
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        reason = reason or type(error).__name__
        raise UsageError(f"{path}: does not fit this scenario and this version: {reason}") from error


def load_agent(path: Path, scenario: Scenario) -> tuple[Agent, int]:
    """Return the agent of a checkpoint folder, and its step. Raises UsageError where nothing valid is there."""
    loaded = read_agent(path, scenario)
    return build_agent(loaded, scenario), loaded.step


def with_trained_seats(scenario: Scenario, trained: Scenario) -> Scenario:
    """Return `scenario` with the opponent, role, policies and league of `trained`, in which an agent was trained.

    They decide for which seats the agent has a policy, and so how it is loaded, also where `scenario` evaluates it
    against another opponent.
    """
    return dataclasses.replace(
        scenario, opponent=trained.opponent, role=trained.role, policies=trained.policies, league=trained.league
    )


def read_agent(path: Path, scenario: Scenario) -> checkpoint.Checkpoint:
    """Return the checkpoint of an agent; of a whole-state checkpoint, the part that makes its learner's agent.

    Raises as `read_checkpoint`, and UsageError where a whole state is not that of this scenario.
    """
    loaded = read_checkpoint(path)
    if not whole_state.is_whole_state(loaded):
        return loaded
    with as_usage_error(loaded.path):
        return whole_state.as_agent(loaded, scenario)


def read_checkpoint(path: Path) -> checkpoint.Checkpoint:
    """Return the checkpoint in this folder or, of a folder of checkpoints, the newest valid one.

    Raises CheckpointError where none is valid, UsageError where there is none.
    """
    if (path / "manifest.json").exists():
        return checkpoint.load(path)
    newest, errors = checkpoint.latest(path)
    if newest is not None:
        return newest
    if errors:
        raise checkpoint.CheckpointError("; ".join(errors))
    raise UsageError(f"{path} holds no agent yet: train it first")


def load_learner_state(target: str) -> StateDict:
    """Return the state of the learner that made an agent, from the agent's checkpoint. Raises as `locate` does.

    An agent's folder has it under "export"; a whole-state checkpoint has all of it.
    """
    location = locate(target)
    loaded = read_checkpoint(location.folder)
    if whole_state.is_whole_state(loaded):
        with as_usage_error(loaded.path):
            return whole_state.learner_state(loaded, location.run.scenario())
    state = loaded.state.get("export", {})
    return StateDict(loaded.tensors, state if isinstance(state, dict) else {})


def build_agent(loaded: checkpoint.Checkpoint, scenario: Scenario) -> Agent:
    """Return the agent of a checkpoint that `read_agent` returned, for the roles of its training.

    Raises UsageError where it does not fit.
    """
    factory = agent_registry.load(scenario.agent)
    envs = make.make(scenario.world, 1, scenario.params)
    state_dict = StateDict(loaded.tensors, loaded.state)
    with as_usage_error(loaded.path):
        agent: Agent
        device = device_of(scenario.device)
        if scenario.policies:
            policies = seats_of(envs.world, scenario.policies)
            agents: dict[str, Agent] = {}
            for name, part in split(state_dict, list(policies)).items():
                view = AgentSubsetView(envs, policies[name], LockstepScheduler(envs))
                agents[name] = factory.load(scenario.config, view.world, part, device=device)
            agent = MultiPolicyAgent(agents, policies)
        else:
            has_all_seats = scenario.opponent is None and scenario.league is None
            learner_envs = envs if has_all_seats else OpponentsWrapper(envs, [], role=scenario.role)
            options = {} if scenario.backbone is None else {"backbone": scenario.backbone}
            agent = factory.load(scenario.config, learner_envs.world, state_dict, device=device, **options)
    envs.close()
    setattr(agent, "selected_deterministic", loaded.state.get("deterministic") is not False)  # noqa: B010 - optional
    return agent
