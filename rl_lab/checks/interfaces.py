"""The property of `rl-lab check` that all interfaces of a world have the same episodes, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.checks.subject import Skip, WorldUnderTest
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch


def all_interfaces_agree(subject: WorldUnderTest) -> list[str]:
    """Compare a batch of one with PettingZoo's AEC and Parallel API and, for a world of one agent, Gymnasium's API."""
    if subject.plain:
        raise Skip("the interfaces are compiled")
    from rl_lab.adapters.gymnasium import LabEnv
    from rl_lab.adapters.pettingzoo import LabAECEnv, LabParallelEnv

    name = subject.world.name
    is_registered = name in world_registry.names() and world_registry.load(name) is subject.world
    has_gymnasium = is_registered and len(subject.world.agents) == 1
    # Gymnasium's interface knows the world by its name, and has it with its own horizon.
    world = subject.world if has_gymnasium else subject.short
    batch, aec, parallel = subject.batch(1, world=world, disabled=True), LabAECEnv(world), LabParallelEnv(world)
    env = LabEnv(world.name) if has_gymnasium else None
    seed: int | None = subject.seed
    for t in subject.acts(batch):
        if batch.states["t"][0] == 0:
            parallel_obs, _ = parallel.reset(seed=seed)
            aec.reset(seed=seed)
            gymnasium_obs = env.reset(seed=seed)[0] if env else None
            seed = None
        actions = {agent: _action(batch, a) for a, agent in enumerate(world.agents)}
        acting = [world.agents[a] for a in np.flatnonzero(batch.acting[0])]
        for agent in list(parallel.agents):
            observations = {"Parallel": parallel_obs[agent], "AEC": aec.observe(agent)}
            if env:
                observations["Gymnasium"] = gymnasium_obs
            expected = _batch_bytes(batch, world.agents.index(agent))
            for interface, observation in observations.items():
                if _bytes(observation) != expected:
                    return [f"step {t}: {agent} observes something else through {interface} than in a batch"]
        for agent in acting:
            if aec.agent_selection != agent:
                return [f"step {t}: AEC has {aec.agent_selection} act where {agent} does in a batch"]
            aec.step(actions[agent])
        batch.step()
        live = list(parallel.agents)
        parallel_obs, rewards, terminated, truncated, _ = parallel.step(actions)
        results: dict[str, list[Any]] = {"Parallel": [rewards, terminated, truncated]}
        results["AEC"] = [aec.rewards, aec.terminations, aec.truncations]
        if env:
            gymnasium_obs, *scalars, _ = env.step(next(iter(actions.values())))
            results["Gymnasium"] = [{live[0]: value} for value in scalars]
        expected_results = _batch_results(batch, live)
        for interface, dicts in results.items():
            for what, a, b in zip(("reward", "termination", "truncation"), dicts, expected_results, strict=True):
                if dict(a) != b:
                    return [f"step {t}: {what} is {dict(a)} through {interface} and {b} in a batch"]
        while aec.agents and (aec.terminations[aec.agent_selection] or aec.truncations[aec.agent_selection]):
            aec.step(None)
        if aec.agents != parallel.agents:
            return [f"step {t}: {aec.agents} are left through AEC and {parallel.agents} through Parallel"]
    return []


def _batch_results(batch: Batch, agents: list[str]) -> list[dict[str, Any]]:
    """Return the rewards, terminations and truncations of these agents in the last step of a batch of one."""
    index = batch.world.agents.index
    left = {agent: bool(batch.left_episode[0, index(agent)]) for agent in agents}
    rewards = {agent: float(batch.rewards[0, index(agent)]) for agent in agents}
    terminated = {agent: left[agent] or bool(batch.terminated[0]) for agent in agents}
    return [rewards, terminated, {agent: bool(batch.truncated[0]) and not left[agent] for agent in agents}]


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
    return bytes((obs if obs.shape == shape else obs[: shape[0]]).tobytes() + mask)


def _bytes(observation: Any) -> bytes:
    """Return the bytes of an observation of an interface, with its action mask if there is one."""
    if isinstance(observation, dict):
        return bytes(observation["observation"].tobytes() + observation["action_mask"].tobytes())
    return bytes(observation.tobytes())
