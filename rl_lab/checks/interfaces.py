"""This module has the property of `rl-lab check` that all interfaces of a world have the same episodes, bit for bit.

`suite` calls `all_interfaces_agree`. It makes new environments of every interface and steps them side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.checks.subject import Skip, WorldUnderTest
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch


def all_interfaces_agree(subject: WorldUnderTest) -> list[str]:
    """Compare a batch of one with PettingZoo's AEC and Parallel API and, for a world of one agent, Gymnasium's API.

    Returns the first difference, as a list of one, or []. Raises Skip where kernels are not compiled.
    """
    if subject.plain:
        raise Skip("the interfaces are compiled")
    from rl_lab.adapters.gymnasium import LabEnv
    from rl_lab.adapters.pettingzoo import LabAECEnv, LabParallelEnv

    name = subject.world.name
    is_registered = name in world_registry.names() and world_registry.load(name) is subject.world
    has_gymnasium = is_registered and len(subject.world.agents) == 1
    # Gymnasium's interface loads the world by its name, with its own horizon; `short_world` has another one.
    world = subject.world if has_gymnasium else subject.short_world
    batch, aec, parallel = subject.batch(1, world=world, no_autoreset=True), LabAECEnv(world), LabParallelEnv(world)
    env = LabEnv(world.name) if has_gymnasium else None
    seed: int | None = subject.seed
    for t in subject.write_actions(batch):
        is_first_step = batch.states["t"][0] == 0
        if is_first_step:
            parallel_obs, _ = parallel.reset(seed=seed)
            aec.reset(seed=seed)
            gymnasium_obs = env.reset(seed=seed)[0] if env else None
            seed = None  # later episodes continue the random stream
        observations = {"Parallel": dict(parallel_obs), "AEC": {agent: aec.observe(agent) for agent in parallel.agents}}
        if env:
            observations["Gymnasium"] = {parallel.agents[0]: gymnasium_obs}
        if difference := _observation_difference(batch, list(parallel.agents), observations):
            return [f"step {t}: {difference}"]
        actions = {agent: _action(batch, a) for a, agent in enumerate(world.agents)}
        for agent in [world.agents[a] for a in np.flatnonzero(batch.acting[0])]:
            if aec.agent_selection != agent:
                return [f"step {t}: AEC has {aec.agent_selection} act where {agent} does in a batch"]
            aec.step(actions[agent])
        batch.step()
        live_agents = list(parallel.agents)  # before the step, in which agents may leave
        parallel_obs, rewards, terminated, truncated, _ = parallel.step(actions)
        results: dict[str, list[Any]] = {"Parallel": [rewards, terminated, truncated]}
        results["AEC"] = [aec.rewards, aec.terminations, aec.truncations]
        if env:
            gymnasium_obs, *scalars, _ = env.step(next(iter(actions.values())))
            results["Gymnasium"] = [{live_agents[0]: value} for value in scalars]
        if difference := _result_difference(batch, live_agents, results):
            return [f"step {t}: {difference}"]
        while aec.agents and (aec.terminations[aec.agent_selection] or aec.truncations[aec.agent_selection]):
            aec.step(None)  # AEC requires it of agents whose episode has ended
        if aec.agents != parallel.agents:
            return [f"step {t}: {aec.agents} are left through AEC and {parallel.agents} through Parallel"]
    return []


def _observation_difference(batch: Batch, agents: list[str], observations: dict[str, dict[str, Any]]) -> str:
    """Return how the agents' observations, by interface and agent, differ from the batch's; "" if they do not."""
    for agent in agents:
        expected = _batch_bytes(batch, batch.world.agents.index(agent))
        for interface, of_agents in observations.items():
            if _interface_bytes(of_agents[agent]) != expected:
                return f"{agent} observes something else through {interface} than in a batch"
    return ""


def _result_difference(batch: Batch, agents: list[str], results: dict[str, list[Any]]) -> str:
    """Return how the step's rewards, terminations and truncations, by interface, differ from the batch's."""
    expected = _batch_results(batch, agents)
    for interface, dicts in results.items():
        for quantity, actual, in_batch in zip(("reward", "termination", "truncation"), dicts, expected, strict=True):
            if dict(actual) != in_batch:
                return f"{quantity} is {dict(actual)} through {interface} and {in_batch} in a batch"
    return ""


def _batch_results(batch: Batch, agents: list[str]) -> list[dict[str, Any]]:
    """Return the rewards, terminations and truncations of these agents in the last step of a batch of one.

    An agent that left the episode in this step is terminated, not truncated.
    """
    index = batch.world.agents.index
    has_left = {agent: bool(batch.left_episode[0, index(agent)]) for agent in agents}
    rewards = {agent: float(batch.rewards[0, index(agent)]) for agent in agents}
    terminated = {agent: has_left[agent] or bool(batch.terminated[0]) for agent in agents}
    return [rewards, terminated, {agent: bool(batch.truncated[0]) and not has_left[agent] for agent in agents}]


def _action(batch: Batch, a: int) -> Any:
    """Return the action of agent a of a batch of one as its interfaces accept it."""
    space, action = batch.world.action_spaces[a], batch.actions[0, a]
    return action[: space.shape[0]].copy() if isinstance(space, Box) else int(action)


def _batch_bytes(batch: Batch, a: int) -> bytes:
    """Return the bytes of the observation and the action mask of agent a of a batch of one, without padding."""
    world = batch.world
    shape, obs, actions = world.observation_spaces[a].shape, batch.observations[0, a], world.action_spaces[a]
    mask = b""
    if world.has_action_mask and isinstance(actions, Discrete):
        mask = batch.action_mask[0, a, : int(actions.n)].tobytes()
    return bytes((obs if obs.shape == shape else obs[: shape[0]]).tobytes() + mask)  # only vectors are padded


def _interface_bytes(observation: Any) -> bytes:
    """Return the bytes of an observation of an interface, with its action mask if there is one."""
    if isinstance(observation, dict):
        return bytes(observation["observation"].tobytes() + observation["action_mask"].tobytes())
    return bytes(observation.tobytes())
