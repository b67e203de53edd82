"""Make contenders of `rl-lab bench env` for games: MinAtar, MPE2 and PettingZoo's classic games as peers.

One environment of each is stepped in a Python loop, as users of these libraries do. The lab's contender beside them is
its PettingZoo environment, stepped by the same loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rl_lab.bench.timing import Contender
from rl_lab.engine import world_registry

# The peer's name of a world, by peer and by the world's name.
PEERS: dict[str, dict[str, str]] = {
    "minatar": {name: name for name in ("asterix", "breakout", "freeway", "seaquest", "space_invaders")},
    "mpe2": {
        f"simple_{name}": f"simple_{name}_v{version}"
        for name, version in (("spread", 3), ("tag", 3), ("adversary", 3), ("speaker_listener", 4))
    },
    "pettingzoo": {"tic_tac_toe": "tictactoe_v3", "connect_four": "connect_four_v3"},
}
_STEPS = 256  # steps in one call of a contender


def lab_pettingzoo(world: str, num_envs: int) -> Contender:
    """Return one PettingZoo environment of the lab: Parallel, or AEC for a turn-based world. `num_envs` is not used."""
    from rl_lab.adapters import pettingzoo

    begin = time.perf_counter()
    in_turns = bool(world_registry.load(world).current_player_field)
    run = _aec_loop(pettingzoo.env(world)) if in_turns else _parallel_loop(pettingzoo.parallel_env(world))
    run()
    api = "AEC" if in_turns else "Parallel"
    return Contender("rl_lab", "env", f"PettingZoo's {api} API, one world", run, time.perf_counter() - begin)


def reference(peer: str, world: str) -> Contender:
    """Return a peer's own implementation of a world, which is stepped in a Python loop."""
    import importlib

    begin, name = time.perf_counter(), PEERS[peer][world]
    if peer == "minatar":
        from minatar import Environment

        run, api = _minatar_loop(Environment(name, sticky_action_prob=0.1)), "act, one game"
    elif peer == "mpe2":
        run, api = _parallel_loop(importlib.import_module(f"mpe2.{name}").parallel_env()), f"Parallel API, {name}"
    else:
        run, api = _aec_loop(importlib.import_module(f"pettingzoo.classic.{name}").env()), f"AEC API, {name}"
    run()
    return Contender(peer, "env", api, run, time.perf_counter() - begin)


def _minatar_loop(game: Any) -> Callable[[], int]:
    """Return a function that steps MinAtar's game with random actions, and returns the number of steps."""
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


def _parallel_loop(env: Any) -> Callable[[], int]:
    """Return a function that steps a Parallel environment with random actions, and returns the agents' steps."""
    observations, _ = env.reset(seed=0)
    for agent in env.possible_agents:
        env.action_space(agent).seed(0)
    if isinstance(next(iter(observations.values())), dict):
        return _masked_parallel_loop(env, observations)
    prepared_actions = [
        {agent: env.action_space(agent).sample() for agent in env.possible_agents} for _ in range(_STEPS)
    ]

    def run() -> int:
        acted = 0
        for actions in prepared_actions:
            if not env.agents:
                env.reset()
            acted += len(env.agents)
            env.step({agent: actions[agent] for agent in env.agents})
        return acted

    return run


def _masked_parallel_loop(env: Any, observations: dict[str, Any]) -> Callable[[], int]:
    """As `_parallel_loop`, for an environment whose observations have an action mask."""
    rng = np.random.default_rng(0)

    def choose_legal(mask: Any, share: float) -> int:
        legal = np.flatnonzero(mask)
        return int(legal[int(share * len(legal))])

    def run() -> int:
        nonlocal observations
        acted = 0
        for shares in rng.random((_STEPS, len(env.possible_agents))).tolist():
            if not env.agents:
                observations, _ = env.reset()
            acted += len(env.agents)
            actions = {
                a: choose_legal(observations[a]["action_mask"], share)
                for a, share in zip(env.agents, shares, strict=False)
            }
            observations = env.step(actions)[0]
        return acted

    return run


def _aec_loop(env: Any) -> Callable[[], int]:
    """Return a function that makes random legal moves in an AEC environment, and returns their number."""
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def run() -> int:
        moves = 0
        for share in rng.random(_STEPS).tolist():
            observation, _, terminated, truncated, _ = env.last()
            if terminated or truncated:
                env.reset()
                observation = env.last()[0]
            legal = np.flatnonzero(observation["action_mask"])
            env.step(int(legal[int(share * len(legal))]))
            moves += 1
        return moves

    return run
