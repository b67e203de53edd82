"""What `rl-lab check` tests of a world's interfaces: all of them play the same episodes, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from . import worlds
from .check import Skip, Subject
from .engine import Batch


def all_interfaces_agree(subject: Subject) -> list[str]:
    """Play a batch of one, PettingZoo's AEC and Parallel and, of a world with one agent, Gymnasium's."""
    if subject.plain:
        raise Skip("the interfaces are compiled")
    from .adapters.gymnasium import LabEnv
    from .adapters.pettingzoo import LabAECEnv, LabParallelEnv

    lone = worlds.load(subject.world.name) is subject.world if subject.world.name in worlds.names() else False
    lone = lone and len(subject.world.agents) == 1
    world = subject.world if lone else subject.short  # Gymnasium's knows it by name, with its own horizon
    batch, aec, parallel = subject.batch(1, world=world, disabled=True), LabAECEnv(world), LabParallelEnv(world)
    env = LabEnv(world.name) if lone else None
    seed: int | None = subject.seed
    for t in subject.acts(batch):
        if batch.states["t"][0] == 0:
            seen, _ = parallel.reset(seed=seed)
            aec.reset(seed=seed)
            alone = env.reset(seed=seed)[0] if env else None
            seed = None
        actions = {agent: _action(batch, a) for a, agent in enumerate(world.agents)}
        acting = [world.agents[a] for a in np.flatnonzero(batch.active[0])]
        for agent in list(parallel.agents):
            shown = {"Parallel": seen[agent], "AEC": aec.observe(agent), **({"Gymnasium": alone} if env else {})}
            expected = _shown(batch, world.agents.index(agent))
            for face, what in shown.items():
                if _bytes(what) != expected:
                    return [f"step {t}: {agent} observes something else through {face} than in a batch"]
        for agent in acting:
            if aec.agent_selection != agent:
                return [f"step {t}: AEC has {aec.agent_selection} act where {agent} does in a batch"]
            aec.step(actions[agent])
        batch.step()
        there = list(parallel.agents)
        seen, rewards, terminated, truncated, _ = parallel.step(actions)
        paid = [{agent: float(batch.rewards[0, world.agents.index(agent)]) for agent in there}]
        paid += [dict.fromkeys(there, False), dict.fromkeys(there, False)]
        for agent in there:
            left = bool(batch.departed[0, world.agents.index(agent)])
            paid[1][agent] = left or bool(batch.terminated[0])
            paid[2][agent] = bool(batch.truncated[0]) and not left
        played: dict[str, list[Any]] = {"Parallel": [rewards, terminated, truncated]}
        played["AEC"] = [aec.rewards, aec.terminations, aec.truncations]
        if env:
            alone, *of_one, _ = env.step(next(iter(actions.values())))
            played["Gymnasium"] = [{there[0]: value} for value in of_one]
        for face, given in played.items():
            for what, a, b in zip(("reward", "termination", "truncation"), given, paid, strict=True):
                if dict(a) != b:
                    return [f"step {t}: {what} is {dict(a)} through {face} and {b} in a batch"]
        while aec.agents and (aec.terminations[aec.agent_selection] or aec.truncations[aec.agent_selection]):
            aec.step(None)
        if aec.agents != parallel.agents:
            return [f"step {t}: {aec.agents} are left through AEC and {parallel.agents} through Parallel"]
    return []


def _action(batch: Batch, a: int) -> Any:
    space, given = batch.world.action_spaces[a], batch.actions[0, a]
    return given[: space.shape[0]].copy() if isinstance(space, Box) else int(given)


def _shown(batch: Batch, a: int) -> bytes:
    world = batch.world
    own, seen, choices = world.observation_spaces[a].shape, batch.observations[0, a], world.action_spaces[a]
    mask = batch.legal[0, a, : int(choices.n)].tobytes() if world.masked and isinstance(choices, Discrete) else b""
    return bytes((seen if seen.shape == own else seen[: own[0]]).tobytes() + mask)


def _bytes(shown: Any) -> bytes:
    if isinstance(shown, dict):
        return bytes(shown["observation"].tobytes() + shown["action_mask"].tobytes())
    return bytes(shown.tobytes())
