"""Peers of the lab's games and teams in `rl-lab bench env`: MinAtar, MPE2 and PettingZoo's classic games.

Each is looped in Python as its users do, one environment; the lab's PettingZoo face is looped in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import worlds
from .rounds import Contender

# Peer -> world -> what the peer calls it.
PEERS: dict[str, dict[str, str]] = {
    "minatar": {name: name for name in ("asterix", "breakout", "freeway", "seaquest", "space_invaders")},
    "mpe2": {
        f"simple_{name}": f"simple_{name}_v{version}"
        for name, version in (("spread", 3), ("tag", 3), ("adversary", 3), ("speaker_listener", 4))
    },
    "pettingzoo": {"tic_tac_toe": "tictactoe_v3", "connect_four": "connect_four_v3"},
}
_STEPS = 256  # between looks at the clock


def face(world: str, count: int) -> Contender:
    """Return the lab's PettingZoo face of a world: Parallel, or AEC where agents move in turn."""
    from ..adapters import pettingzoo

    begin = time.perf_counter()
    in_turns = bool(worlds.load(world).turns)
    run = _taking_turns(pettingzoo.env(world)) if in_turns else _together(pettingzoo.parallel_env(world))
    run()
    api = "AEC" if in_turns else "Parallel"
    return Contender("rl_lab", "env", f"PettingZoo's {api} API, one world", run, time.perf_counter() - begin)


def reference(peer: str, world: str) -> Contender:
    """Return a peer's own implementation of a world, looped in Python."""
    import importlib

    begin, name = time.perf_counter(), PEERS[peer][world]
    if peer == "minatar":
        from minatar import Environment

        run, api = _alone(Environment(name, sticky_action_prob=0.1)), "act, one game"
    elif peer == "mpe2":
        run, api = _together(importlib.import_module(f"mpe2.{name}").parallel_env()), f"Parallel API, {name}"
    else:
        run, api = _taking_turns(importlib.import_module(f"pettingzoo.classic.{name}").env()), f"AEC API, {name}"
    run()
    return Contender(peer, "env", api, run, time.perf_counter() - begin)


def _alone(game: Any) -> Callable[[], int]:
    actions = np.random.default_rng(0).integers(0, game.num_actions(), _STEPS).tolist()
    game.reset()

    def run() -> int:
        for action in actions:
            _, over = game.act(action)
            game.state()
            if over:
                game.reset()
        return _STEPS

    return run


def _together(env: Any) -> Callable[[], int]:
    seen, _ = env.reset(seed=0)
    for agent in env.possible_agents:
        env.action_space(agent).seed(0)
    if isinstance(next(iter(seen.values())), dict):
        return _together_masked(env, seen)
    choices = [{agent: env.action_space(agent).sample() for agent in env.possible_agents} for _ in range(_STEPS)]

    def run() -> int:
        acted = 0
        for actions in choices:
            if not env.agents:
                env.reset()
            acted += len(env.agents)
            env.step({agent: actions[agent] for agent in env.agents})
        return acted

    return run


def _together_masked(env: Any, seen: dict[str, Any]) -> Callable[[], int]:
    chance = np.random.default_rng(0)

    def choose(mask: Any, share: float) -> int:
        legal = np.flatnonzero(mask)
        return int(legal[int(share * len(legal))])

    def run() -> int:
        nonlocal seen
        acted = 0
        for shares in chance.random((_STEPS, len(env.possible_agents))).tolist():
            if not env.agents:
                seen, _ = env.reset()
            acted += len(env.agents)
            actions = {a: choose(seen[a]["action_mask"], share) for a, share in zip(env.agents, shares, strict=False)}
            seen = env.step(actions)[0]
        return acted

    return run


def _taking_turns(env: Any) -> Callable[[], int]:
    chance = np.random.default_rng(0)
    env.reset(seed=0)

    def run() -> int:
        moves = 0
        for share in chance.random(_STEPS).tolist():
            observation, _, terminated, truncated, _ = env.last()
            if terminated or truncated:
                env.reset()
                observation = env.last()[0]
            legal = np.flatnonzero(observation["action_mask"])
            env.step(int(legal[int(share * len(legal))]))
            moves += 1
        return moves

    return run
