"""Contenders of `rl-lab bench rollout` and `bench train`: the lab's learner, Stable-Baselines3's, and SBX's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import batch, catalogue
from ..fast.threads import available
from ..names import UsageError
from .games import PEERS as GAMES
from .rounds import Contender
from .settings import Setting
from .stepping import ORIGINALS

# What each contender is: shown, its module, and whether it runs in the original's environment.
PEERS = ("sb3", "sbx", "stock")
MODULES = {"sb3": "stable_baselines3", "stock": "stable_baselines3", "sbx": "sbx"}
_STEPS = 1024  # that DQN takes between looks at the clock: as many as the lab's learner does


def known(peer: str, world: str) -> bool:
    """Say whether a peer has this world: the lab's own has all, others what Gymnasium or MinAtar have."""
    return peer == "stock" or world in ORIGINALS or world in GAMES["minatar"]


def contender(name: str, kind: str, world: str, setting: Setting, *, threads: int | None = None) -> Contender:
    """Return "lab" or a peer, once round: it has collected and, unless kind is rollout, learned from that.

    Peers that compute with torch get so many of its threads or, with None, what is faster for them: one, or one a core.
    """
    import torch

    begin = time.perf_counter()
    torch.set_num_threads(threads or 1)
    if name in ("lab", "stock"):
        what = f"rl_lab {setting.agent}" if name == "lab" else f"sb3 {setting.agent} on rl_lab"
        place, run = "", _in_the_lab(kind, world, setting, compiled=name == "lab")
    else:
        what, place = f"{name} {setting.agent}", ", DummyVecEnv"
        run = _alone(_sb3(world, setting) if name == "sb3" else _sbx(world, setting), kind)
    run()
    cold = time.perf_counter() - begin
    shared = available() if setting.agent == "ppo" else 1
    own = "one thread" if shared == 1 else f"{shared} threads"
    computing = {"lab": own, "sbx": "JAX's own threads"}.get(name, "")
    if not computing:
        count = threads or _fastest(run)
        run, computing = partial(_with_threads, run, count), f"torch threads {count}"
    return Contender(what, kind, f"{setting.shown()}{place}, {computing}", run, cold)


def _with_threads(run: Callable[[], int], count: int) -> int:
    import torch

    torch.set_num_threads(count)
    return run()


def _fastest(run: Callable[[], int]) -> int:
    """Return how many of torch's threads serve this work best: one, or one a core."""
    took = {}
    for count in sorted({1, os.cpu_count() or 1}, reverse=True):
        _with_threads(run, count)  # starting threads takes its time
        begin = time.perf_counter()
        _with_threads(run, count)
        took[count] = time.perf_counter() - begin
    return min(took, key=lambda count: took[count])


def _in_the_lab(kind: str, world: str, setting: Setting, *, compiled: bool) -> Callable[[], int]:
    factory = catalogue.load(setting.agent)
    config = factory.Config(**setting.config, compiled=compiled)
    try:
        learner = factory.learner(config, batch.make(world, setting.worlds), budget=2**60, seed=0, device="cpu")
    except (ValueError, AssertionError) as error:  # SB3 asserts its own arguments
        raise UsageError(f"{world}: {str(error).partition(chr(10))[0]}") from None
    if compiled and learner.how != "compiled":
        raise UsageError(f"{world}: the learner is {learner.how}")
    return _stepping(learner, kind)


def _stepping(learner: Any, kind: str) -> Callable[[], int]:
    if kind == "rollout":
        return _collecting(learner.model)

    def run() -> int:
        before = learner.steps
        learner.advance()
        return int(learner.steps - before)

    return run


def _alone(model: Any, kind: str) -> Callable[[], int]:
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(folder=None, output_formats=[]))
    _, callback = model._setup_learn(2**60)
    if hasattr(model, "replay_buffer"):
        return _off_policy(model, callback)
    collect = _collecting(model)
    if kind == "rollout":
        return collect

    def run() -> int:
        steps = collect()
        model.train()
        return steps

    return run


def _collecting(model: Any) -> Callable[[], int]:
    from stable_baselines3.common.callbacks import CallbackList

    callback = CallbackList([])
    callback.init_callback(model)

    def run() -> int:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        return int(model.n_steps * model.n_envs)

    return run


def _off_policy(model: Any, callback: Any) -> Callable[[], int]:
    def run() -> int:
        before = model.num_timesteps
        while model.num_timesteps < before + _STEPS:
            model.collect_rollouts(
                model.env,
                callback,
                model.train_freq,
                model.replay_buffer,
                learning_starts=model.learning_starts,
                log_interval=None,
            )
            if model.num_timesteps > model.learning_starts:
                # As `learn` does it: SBX takes the minibatch's size by position, SB3 by either.
                model.train(model.gradient_steps, model.batch_size)
        return int(model.num_timesteps - before)

    return run


def _original(world: str, worlds: int) -> Any:
    """Return DummyVecEnv, SB3's usual loop over single environments, of Gymnasium's or MinAtar's own."""
    import gymnasium
    import numpy as np
    from stable_baselines3.common.env_util import make_vec_env

    if world in ORIGINALS:
        return make_vec_env(ORIGINALS[world], worlds)
    from minatar.gym import BaseEnv

    def game() -> Any:
        env = BaseEnv(GAMES["minatar"][world], use_minimal_action_set=True)
        return gymnasium.wrappers.DtypeObservation(env, np.float32)  # its own is bool

    return make_vec_env(game, worlds)


def _sb3(world: str, setting: Setting) -> Any:
    from stable_baselines3 import DQN, PPO

    from ..adapters.sb3_policy import policy_arguments

    env = _original(world, setting.worlds)
    info = batch.make(world, 1).world
    network = policy_arguments(info, *(setting.config[name] for name in ("policy", "net_arch", "activation")))
    algorithm = {"ppo": PPO, "dqn": DQN}[setting.agent]
    return algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=network, **setting.arguments())


def _sbx(world: str, setting: Setting) -> Any:
    import flax.linen
    import sbx

    config = setting.config
    if config["policy"] != "mlp":
        raise UsageError("sbx has no such network: its own convolutions are of another size; use --vs sb3 or stock")
    network = {"net_arch": list(config["net_arch"]), "activation_fn": getattr(flax.linen, config["activation"])}
    algorithm = {"ppo": sbx.PPO, "dqn": sbx.DQN}[setting.agent]
    env = _original(world, setting.worlds)
    return algorithm("MlpPolicy", env, seed=0, policy_kwargs=network, **setting.arguments())
