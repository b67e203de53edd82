"""Contenders of `rl-lab bench env`: the engine, its Gymnasium vector API, and vectorised environments of peers."""

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
_ACTIONS = 64  # number of prepared random actions, which contenders repeat


def _random_actions(space: Any, dtype: Any = None) -> list[Any]:
    space.seed(0)
    return [np.asarray(space.sample(), dtype) for _ in range(_ACTIONS)]


def _stepper(step: Callable[[Any], Any], actions: list[Any], num_envs: int) -> Callable[[], int]:
    def run() -> int:
        for action in actions:
            step(action)
        return num_envs * len(actions)

    return run


def engine(world: str, num_envs: int) -> Contender:
    """Return the engine, which is stepped with random actions without an interface around it."""
    begin = time.perf_counter()
    stepped = make.make(world, num_envs)
    stepped.reset()
    generator = np.random.default_rng(0)
    space: Any = stepped.world.action
    shape = stepped.actions.shape
    if isinstance(stepped, Batch) and (stepped.world.has_action_mask or len(stepped.world.agents) > 1):
        return _engine_of_several(stepped, begin)
    if hasattr(space, "n"):
        actions: list[Any] = [generator.integers(0, space.n, shape) for _ in range(_ACTIONS)]
    else:
        actions = [generator.uniform(space.low, space.high, shape).astype(np.float32) for _ in range(_ACTIONS)]

    def step(action: Any) -> None:
        stepped.actions[...] = action
        stepped.step()

    step(actions[0])
    cold = time.perf_counter() - begin
    return Contender("rl_lab engine", "env", f"{num_envs} worlds, Batch.step", _stepper(step, actions, num_envs), cold)


def _engine_of_several(stepped: Batch, begin: float) -> Contender:
    """Return the engine with legal random actions, which are drawn in compiled code before each step and cost time."""
    in_turns = bool(stepped.world.current_player_field)

    def run() -> int:
        acted = 0
        for _ in range(_ACTIONS):
            stepped.random_actions()
            acted += stepped.num_envs if in_turns else int(np.count_nonzero(stepped.acting))
            stepped.step()
        return acted

    run()
    agents, cold = len(stepped.world.agents), time.perf_counter() - begin
    conditions = (
        f"{stepped.num_envs} worlds x {agents} agents, Batch.step, random legal actions drawn for it, agents' steps"
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


def _gymnasium(world: str, num_envs: int) -> Contender:
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


def _envpool(world: str, num_envs: int) -> Contender:
    import os

    import envpool

    begin = time.perf_counter()
    threads = os.cpu_count() or 1
    env = envpool.make_gymnasium(ORIGINALS[world], num_envs=num_envs, num_threads=threads)
    env.reset()
    space = env.action_space
    generator = np.random.default_rng(0)
    if hasattr(space, "n"):
        actions: list[Any] = [generator.integers(0, space.n, num_envs).astype(np.int32) for _ in range(_ACTIONS)]
    else:
        shape = (num_envs, *space.shape)
        actions = [generator.uniform(space.low, space.high, shape).astype(np.float32) for _ in range(_ACTIONS)]
    env.step(actions[0])
    cold = time.perf_counter() - begin
    conditions = f"{num_envs} worlds, {threads} threads, {ORIGINALS[world]}"
    return Contender("envpool", "env", conditions, _stepper(env.step, actions, num_envs), cold)


def _reference(peer: str, world: str, num_envs: int) -> Contender:
    return peers_multiagent.reference(peer, world)


PEERS: dict[str, Callable[[str, int], Contender]] = {
    "gymnasium": _gymnasium,
    "envpool": _envpool,
    "gymnax": peer_gymnax.gymnax,
    **{name: partial(_reference, name) for name in peers_multiagent.PEERS},
}
