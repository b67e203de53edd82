"""Contenders of `rl-lab bench env`: the engine, its vector face, and vectorised environments of others."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import batch
from ..engine import Batch
from . import games, jitted
from .rounds import Contender

# World -> its original's id, for peers that have the original only.
ORIGINALS = {
    "acrobot": "Acrobot-v1",
    "cartpole": "CartPole-v1",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
}
_ACTIONS = 64  # prepared random actions that contenders take in turn


def _random_actions(space: Any, dtype: Any = None) -> list[Any]:
    space.seed(0)
    return [np.asarray(space.sample(), dtype) for _ in range(_ACTIONS)]


def _stepper(step: Callable[[Any], Any], actions: list[Any], worlds: int) -> Callable[[], int]:
    def run() -> int:
        for action in actions:
            step(action)
        return worlds * len(actions)

    return run


def engine(world: str, worlds: int) -> Contender:
    """Return the engine, stepped with random actions as directly as can be."""
    begin = time.perf_counter()
    stepped = batch.make(world, worlds)
    stepped.reset()
    generator = np.random.default_rng(0)
    space: Any = stepped.world.action
    shape = stepped.actions.shape
    if isinstance(stepped, Batch) and (stepped.world.masked or len(stepped.world.agents) > 1):
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
    return Contender("rl_lab engine", "env", f"{worlds} worlds, Batch.step", _stepper(step, actions, worlds), cold)


def _engine_of_several(stepped: Batch, begin: float) -> Contender:
    """What is legal is known only when it is to be done: random actions are drawn in compiled code, and cost time."""
    in_turns = bool(stepped.world.turns)

    def run() -> int:
        acted = 0
        for _ in range(_ACTIONS):
            stepped.random_actions()
            acted += stepped.n if in_turns else int(np.count_nonzero(stepped.active))
            stepped.step()
        return acted

    run()
    agents, cold = len(stepped.world.agents), time.perf_counter() - begin
    conditions = f"{stepped.n} worlds x {agents} agents, Batch.step, random legal actions drawn for it, agents' steps"
    return Contender("rl_lab engine", "env", conditions, run, cold)


def lab_vector(world: str, worlds: int) -> Contender:
    """Return the lab's face for Gymnasium's vector API."""
    import gymnasium

    begin = time.perf_counter()
    env = gymnasium.make_vec(f"rl_lab/{world}-v0", num_envs=worlds, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    actions = _random_actions(env.action_space)
    env.step(actions[0])
    cold = time.perf_counter() - begin
    conditions = f"{worlds} worlds, Gymnasium vector API"
    return Contender("rl_lab", "env", conditions, _stepper(env.step, actions, worlds), cold)


def _gymnasium(world: str, worlds: int) -> Contender:
    import gymnasium

    begin = time.perf_counter()
    identity = ORIGINALS[world]
    # Its own vectorised version where there is one and enough worlds to be worth it, else its loop over single ones.
    vectorised = gymnasium.spec(identity).vector_entry_point is not None and worlds >= 64
    mode = "vector_entry_point" if vectorised else "sync"
    env = gymnasium.make_vec(identity, num_envs=worlds, vectorization_mode=mode)
    env.reset(seed=0)
    actions = _random_actions(env.action_space)
    env.step(actions[0])
    cold = time.perf_counter() - begin
    conditions = f"{worlds} worlds, {'vectorised' if vectorised else 'SyncVectorEnv'} {identity}"
    return Contender("gymnasium", "env", conditions, _stepper(env.step, actions, worlds), cold)


def _envpool(world: str, worlds: int) -> Contender:
    import os

    import envpool

    begin = time.perf_counter()
    threads = os.cpu_count() or 1
    env = envpool.make_gymnasium(ORIGINALS[world], num_envs=worlds, num_threads=threads)
    env.reset()
    space = env.action_space
    generator = np.random.default_rng(0)
    if hasattr(space, "n"):
        actions: list[Any] = [generator.integers(0, space.n, worlds).astype(np.int32) for _ in range(_ACTIONS)]
    else:
        shape = (worlds, *space.shape)
        actions = [generator.uniform(space.low, space.high, shape).astype(np.float32) for _ in range(_ACTIONS)]
    env.step(actions[0])
    cold = time.perf_counter() - begin
    conditions = f"{worlds} worlds, {threads} threads, {ORIGINALS[world]}"
    return Contender("envpool", "env", conditions, _stepper(env.step, actions, worlds), cold)


def _reference(peer: str, world: str, worlds: int) -> Contender:
    return games.reference(peer, world)


PEERS: dict[str, Callable[[str, int], Contender]] = {
    "gymnasium": _gymnasium,
    "envpool": _envpool,
    "gymnax": jitted.gymnax,
    **{name: partial(_reference, name) for name in games.PEERS},
}
