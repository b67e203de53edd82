"""Make the contenders of `rl-lab bench env`: the lab's engine, its Gymnasium vector API, and environments of peers.

Each is stepped with random actions that were drawn before the measurement, except where actions can be illegal. `PEERS`
has a function for each peer of `--vs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rl_lab.adapters import make
from rl_lab.bench import peer_gymnax, peers_multiagent
from rl_lab.bench.timing import Contender
from rl_lab.engine.batch import Batch

# Gymnasium's id of the original of a world, by the world's name.
ORIGINALS = {
    "acrobot": "Acrobot-v1",
    "cartpole": "CartPole-v1",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
}
_NUM_ACTION_ARRAYS = (
    64  # the number of arrays of random actions that are drawn before the measurement and then repeated
)


def _random_actions(space: Any, dtype: Any = None) -> list[Any]:
    """Return `_NUM_ACTION_ARRAYS` random elements of a space."""
    space.seed(0)
    return [np.asarray(space.sample(), dtype) for _ in range(_NUM_ACTION_ARRAYS)]


def _stepper(step: Callable[[Any], Any], actions: list[Any], num_envs: int) -> Callable[[], int]:
    """Return a function that steps with each action once, and returns the number of steps of all environments."""

    def run() -> int:
        for action in actions:
            step(action)
        return num_envs * len(actions)

    return run


def engine(world: str, num_envs: int) -> Contender:
    """Return the engine: `Batch.step` with random actions, without an interface around it."""
    begin = time.perf_counter()
    batch = make.make(world, num_envs)
    batch.reset()
    generator = np.random.default_rng(0)
    space: Any = batch.world.action
    shape = batch.actions.shape
    if isinstance(batch, Batch) and (batch.world.has_action_mask or len(batch.world.agents) > 1):
        return _engine_with_legal_actions(batch, begin)
    if hasattr(space, "n"):
        actions: list[Any] = [generator.integers(0, space.n, shape) for _ in range(_NUM_ACTION_ARRAYS)]
    else:
        actions = [
            generator.uniform(space.low, space.high, shape).astype(np.float32) for _ in range(_NUM_ACTION_ARRAYS)
        ]

    def step(action: Any) -> None:
        batch.actions[...] = action
        batch.step()

    step(actions[0])
    cold = time.perf_counter() - begin
    return Contender("rl_lab engine", "env", f"{num_envs} worlds, Batch.step", _stepper(step, actions, num_envs), cold)


def _engine_with_legal_actions(batch: Batch, begin: float) -> Contender:
    """Return the engine with random legal actions, which compiled code draws before each step; their time counts."""
    in_turns = bool(batch.world.current_player_field)

    def run() -> int:
        acted = 0
        for _ in range(_NUM_ACTION_ARRAYS):
            batch.random_actions()
            acted += batch.num_envs if in_turns else int(np.count_nonzero(batch.acting))
            batch.step()
        return acted

    run()
    agents, cold = len(batch.world.agents), time.perf_counter() - begin
    conditions = (
        f"{batch.num_envs} worlds x {agents} agents, Batch.step, random legal actions drawn for it, agents' steps"
    )
    return Contender("rl_lab engine", "env", conditions, run, cold)


def lab_vector(world: str, num_envs: int) -> Contender:
    """Return the lab's environment with Gymnasium's vector API."""
    import gymnasium

    begin = time.perf_counter()
    env = gymnasium.make_vec(f"rl_lab/{world}-v0", num_envs=num_envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    actions = _random_actions(env.action_space)
    env.step(actions[0])
    cold = time.perf_counter() - begin
    conditions = f"{num_envs} worlds, Gymnasium vector API"
    return Contender("rl_lab", "env", conditions, _stepper(env.step, actions, num_envs), cold)


def gymnasium_envs(world: str, num_envs: int) -> Contender:
    """Return Gymnasium's environments: its vectorised version, or its loop over single environments."""
    import gymnasium

    begin = time.perf_counter()
    identity = ORIGINALS[world]
    # Gymnasium's vectorised version where there is one and it is faster, else its loop over single environments.
    vectorised = gymnasium.spec(identity).vector_entry_point is not None and num_envs >= 64
    mode = "vector_entry_point" if vectorised else "sync"
    env = gymnasium.make_vec(identity, num_envs=num_envs, vectorization_mode=mode)
    env.reset(seed=0)
    actions = _random_actions(env.action_space)
    env.step(actions[0])
    cold = time.perf_counter() - begin
    conditions = f"{num_envs} worlds, {'vectorised' if vectorised else 'SyncVectorEnv'} {identity}"
    return Contender("gymnasium", "env", conditions, _stepper(env.step, actions, num_envs), cold)


def envpool_envs(world: str, num_envs: int) -> Contender:
    """Return EnvPool's environments, with one thread for each core that this process may use."""
    import os

    import envpool

    begin = time.perf_counter()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    env = envpool.make_gymnasium(ORIGINALS[world], num_envs=num_envs, num_threads=threads)
    env.reset()
    space = env.action_space
    generator = np.random.default_rng(0)
    if hasattr(space, "n"):
        actions: list[Any] = [
            generator.integers(0, space.n, num_envs).astype(np.int32) for _ in range(_NUM_ACTION_ARRAYS)
        ]
    else:
        shape = (num_envs, *space.shape)
        actions = [
            generator.uniform(space.low, space.high, shape).astype(np.float32) for _ in range(_NUM_ACTION_ARRAYS)
        ]
    env.step(actions[0])
    cold = time.perf_counter() - begin
    conditions = f"{num_envs} worlds, {threads} threads, {ORIGINALS[world]}"
    return Contender("envpool", "env", conditions, _stepper(env.step, actions, num_envs), cold)


def _peer_game(peer: str, world: str, num_envs: int) -> Contender:
    """Return a peer's game, of which there is one environment, whatever `num_envs` is: its API has no batches."""
    return peers_multiagent.reference(peer, world)


PEERS: dict[str, Callable[[str, int], Contender]] = {
    "gymnasium": gymnasium_envs,
    "envpool": envpool_envs,
    "gymnax": peer_gymnax.gymnax,
    **{name: partial(_peer_game, name) for name in peers_multiagent.PEERS},
}
