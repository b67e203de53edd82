"""Benchmarks: steps per second of the lab and of installed peers on the same work, paired and alternating.

Three kinds, never mixed: `env` steps worlds with random actions, `rollout` adds the policy's choice of actions,
`train` is end to end. In each round every contender runs in turn for a while; rates and ratios are medians over
rounds with the lowest and highest, so that a noisy machine disturbs all alike and ratios least.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import batch, bench_games, catalogue
from . import worlds as by_name
from .engine import Batch
from .names import UsageError, nearest

PEERS = {"env": ("gymnasium", "envpool", "minatar", "mpe2", "pettingzoo"), "rollout": ("sb3",), "train": ("sb3",)}
# World -> its original's id, for peers that have the original only.
ORIGINALS = {
    "acrobot": "Acrobot-v1",
    "cartpole": "CartPole-v1",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
}
_ACTIONS = 64  # prepared random actions that contenders take in turn


@dataclass(frozen=True)
class Contender:
    """One way to do the work; `run()` does some and returns the steps it took, of every agent that acted."""

    what: str
    kind: str
    conditions: str
    run: Callable[[], int]
    cold_seconds: float  # from nothing to the first step taken, compiling and importing included


def bench(
    kind: str,
    world: str,
    *,
    worlds: int,
    against: tuple[str, ...] = (),
    rounds: int = 5,
    seconds: float = 1.0,
) -> list[dict[str, Any]]:
    """Return a row a contender, the lab first; see `_row` for its keys. Raises UsageError for peers that cannot."""
    for peer in against:
        if peer not in PEERS[kind]:
            raise UsageError(f"bench {kind} has no peer {peer!r}; {nearest(peer, PEERS[kind])}")
        module = {"sb3": "stable_baselines3"}.get(peer, peer)
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"{peer} is not installed: pip install 'rl-lab[bench]'")
        known = bench_games.PEERS.get(peer, ORIGINALS)
        if world not in known:
            raise UsageError(f"{peer} has no {world}; {nearest(world, known)}")
    if kind != "env" and len(by_name.load(world).agents) > 1:
        raise UsageError(f"{world} has several agents: bench {kind} measures worlds of one, bench env all")
    if kind == "env":
        several = len(by_name.load(world).agents) > 1
        makers = [_engine, bench_games.face if several else _lab_vector, *(_ENV_PEERS[peer] for peer in against)]
        contenders = [maker(world, worlds) for maker in makers]
    else:
        contenders = [_sb3_on_lab(kind, world, worlds)]
        contenders += [_sb3_alone(kind, world) for _ in against]
    rates: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        _rate(contender, seconds / 4)  # warm
    for _ in range(rounds):
        for contender, seen in zip(contenders, rates, strict=True):
            seen.append(_rate(contender, seconds))
    # Peers compare with the lab through the same interface, which is the last of the lab's own contenders.
    own = len(contenders) - len(against) - 1
    return [
        _row(c, seen, rates[own] if k > own else None, rates[0] if own else None)
        for k, (c, seen) in enumerate(zip(contenders, rates, strict=True))
    ]


def _rate(contender: Contender, seconds: float) -> float:
    steps, begin = 0, time.perf_counter()
    while True:
        steps += contender.run()
        spent = time.perf_counter() - begin
        if spent >= seconds:
            return steps / spent


def _row(
    contender: Contender, rates: list[float], own: list[float] | None, engine: list[float] | None
) -> dict[str, Any]:
    row = {
        "what": contender.what,
        "kind": contender.kind,
        "conditions": contender.conditions,
        "cold_seconds": round(contender.cold_seconds, 3),
        "steps_per_second": _spread(rates),
    }
    if own is not None:
        row["ratio"] = _spread([mine / theirs for mine, theirs in zip(own, rates, strict=True)])
        if engine is not None:
            row["engine_ratio"] = _spread([mine / theirs for mine, theirs in zip(engine, rates, strict=True)])
    return row


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _random_actions(space: Any, dtype: Any = None) -> list[Any]:
    space.seed(0)
    return [np.asarray(space.sample(), dtype) for _ in range(_ACTIONS)]


def _stepper(step: Callable[[Any], Any], actions: list[Any], worlds: int) -> Callable[[], int]:
    def run() -> int:
        for action in actions:
            step(action)
        return worlds * len(actions)

    return run


def _engine(world: str, worlds: int) -> Contender:
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


def _lab_vector(world: str, worlds: int) -> Contender:
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
    return bench_games.reference(peer, world)


_ENV_PEERS: dict[str, Callable[[str, int], Contender]] = {
    "gymnasium": _gymnasium,
    "envpool": _envpool,
    **{name: partial(_reference, name) for name in bench_games.PEERS},
}


def _sb3_on_lab(kind: str, world: str, worlds: int) -> Contender:
    import torch

    begin = time.perf_counter()
    # Big batches keep torch busy where there are many worlds; few worlds take the peer's setting.
    setting = {"n_steps": 32, "batch_size": 8192, "n_epochs": 4} if worlds >= 256 else _PEER_SETTING
    threads = torch.get_num_threads()
    ppo = catalogue.load("ppo")
    learner = ppo.learner(ppo.Config(**setting), batch.make(world, worlds), budget=2**60, seed=0, device="cpu")
    run = _collecting(learner.model) if kind == "rollout" else _training(learner)
    run()
    conditions = f"{worlds} worlds, {_shown(setting)}, torch threads {threads}"
    return Contender("sb3 ppo on rl_lab", kind, conditions, run, time.perf_counter() - begin)


_PEER_SETTING = {"n_steps": 256, "batch_size": 256, "n_epochs": 10}
_PEER_WORLDS = 8


def _sb3_alone(kind: str, world: str) -> Contender:
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    begin = time.perf_counter()
    setting: dict[str, Any] = _PEER_SETTING
    model = PPO("MlpPolicy", make_vec_env(ORIGINALS[world], _PEER_WORLDS), seed=0, device="cpu", **setting)
    model.set_logger(Logger(folder=None, output_formats=[]))
    model._setup_learn(2**60)
    run = _collecting(model) if kind == "rollout" else _both(model)
    run()
    conditions = (
        f"{_PEER_WORLDS} worlds in DummyVecEnv, {_shown(_PEER_SETTING)}, torch threads {torch.get_num_threads()}"
    )
    return Contender("sb3 ppo", kind, conditions, run, time.perf_counter() - begin)


def _shown(setting: dict[str, int]) -> str:
    return f"{setting['n_steps']} steps, minibatch {setting['batch_size']}, {setting['n_epochs']} epochs"


def _collecting(model: Any) -> Callable[[], int]:
    from stable_baselines3.common.callbacks import CallbackList

    callback = CallbackList([])
    callback.init_callback(model)

    def run() -> int:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        return int(model.n_steps * model.n_envs)

    return run


def _both(model: Any) -> Callable[[], int]:
    collect = _collecting(model)

    def run() -> int:
        steps = collect()
        model.train()
        return steps

    return run


def _training(learner: Any) -> Callable[[], int]:
    def run() -> int:
        before = learner.steps
        learner.advance()
        return int(learner.steps - before)

    return run
