"""Make the contenders of `rl-lab bench rollout` and `train`: the learners of the lab, Stable-Baselines3, SBX and RLlib.

`make_contender` builds the learner with the hyperparameters of a `Setting` and returns a function that runs one
iteration of it, or only its rollout. It imports the libraries, sets torch's number of threads in this process, and may
start Ray.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rl_lab.adapters import make
from rl_lab.bench import peer_rllib
from rl_lab.bench.env_throughput import ORIGINALS
from rl_lab.bench.peers_multiagent import PEERS as GAME_PEERS
from rl_lab.bench.settings import Setting
from rl_lab.bench.timing import Contender
from rl_lab.core import agent_registry
from rl_lab.core.errors import UsageError
from rl_lab.learners.compiled.thread_pool import available_threads

# The peers; "stock" is Stable-Baselines3's own learner in the lab's environments.
PEERS = ("sb3", "sbx", "stock", "rllib")
MODULES = {"sb3": "stable_baselines3", "stock": "stable_baselines3", "sbx": "sbx", "rllib": "ray"}
_STEPS = 1024  # steps of DQN in one call of a contender, as many as in one iteration of the lab's learner


def has_world(peer: str, world: str) -> bool:
    """Return whether a peer has this world.

    "stock" has all worlds, "rllib" is measured with those of Gymnasium, other peers with these and MinAtar's.
    """
    return peer == "stock" or world in ORIGINALS or (peer != "rllib" and world in GAME_PEERS["minatar"])


def make_contender(name: str, kind: str, world: str, setting: Setting, *, threads: int | None = None) -> Contender:
    """Return the contender "lab" or a peer, after its first rollout and, unless `kind` is "rollout", its first update.

    Peers that use torch have `threads` of its threads; with None, they have one thread or one for each core, whichever
    is faster.
    """
    import torch

    begin = time.perf_counter()
    torch.set_num_threads(threads or 1)
    if name in ("lab", "stock"):
        what = f"rl_lab {setting.agent}" if name == "lab" else f"sb3 {setting.agent} on rl_lab"
        vec_env, run = "", _lab_iterations(lab_learner(world, setting, compiled=name == "lab"), kind)
    elif name == "rllib":
        what, run = "rllib ppo", peer_rllib.run(kind, world, setting)
        vec_env = f", Gymnasium's {'vectorised' if peer_rllib.vectorised(world) else 'SyncVectorEnv'}"
    else:
        what, vec_env = f"{name} {setting.agent}", ", DummyVecEnv"
        run = _library_iterations(sb3_model(world, setting) if name == "sb3" else sbx_model(world, setting), kind)
    run()
    cold = time.perf_counter() - begin
    lab_threads = 1 if setting.agent == "dqn" else available_threads()
    lab_text = "one thread" if lab_threads == 1 else f"{lab_threads} threads"
    threads_text = {"lab": lab_text, "sbx": "JAX's own threads"}.get(name, "")
    if not threads_text:
        count = threads or _faster_thread_count(run)
        run, threads_text = partial(_with_threads, run, count), f"torch threads {count}"
    return Contender(what, kind, f"{setting.describe()}{vec_env}, {threads_text}", run, cold)


def _with_threads(run: Callable[[], int], count: int) -> int:
    import torch

    torch.set_num_threads(count)
    return run()


def _faster_thread_count(run: Callable[[], int]) -> int:
    """Return the faster number of torch's threads: one, or one for each core."""
    seconds = {}
    for count in sorted({1, os.cpu_count() or 1}, reverse=True):
        _with_threads(run, count)  # starts the threads, whose time does not count
        begin = time.perf_counter()
        _with_threads(run, count)
        seconds[count] = time.perf_counter() - begin
    return min(seconds, key=lambda count: seconds[count])


def lab_learner(world: str, setting: Setting, *, compiled: bool) -> Any:
    """Return a new learner of the lab, compiled or the library's; raise UsageError where it is not what was asked."""
    factory = agent_registry.load(setting.agent)
    config = factory.Config(**setting.config, compiled=compiled)
    try:
        learner = factory.learner(config, make.make(world, setting.num_envs), budget=2**60, seed=0, device="cpu")
    except (ValueError, AssertionError) as error:  # SB3 asserts its own arguments
        raise UsageError(f"{world}: {str(error).partition(chr(10))[0]}") from None
    if (
        compiled
        and learner.backend != "compiled"
        and "acting by compiled code, updates by compiled code" not in learner.backend
    ):
        raise UsageError(f"{world}: the learner is {learner.backend}")
    return learner


def _lab_iterations(learner: Any, kind: str) -> Callable[[], int]:
    """Return a function that runs an iteration of the lab's learner, or its rollout, and returns the steps taken."""
    if kind == "rollout":
        if hasattr(learner, "algorithm"):  # RLlib's
            return lambda: len(learner.algorithm.env_runner.sample())
        return _rollouts(learner.model)

    def run() -> int:
        before = learner.steps
        learner.train_iteration()
        return int(learner.steps - before)

    return run


def _library_iterations(model: Any, kind: str) -> Callable[[], int]:
    """Return a function that runs an iteration of SB3 or SBX, or its rollout, and returns the steps taken."""
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(folder=None, output_formats=[]))
    _, callback = model._setup_learn(2**60)
    if hasattr(model, "replay_buffer"):
        return _off_policy_iterations(model, callback)
    collect = _rollouts(model)
    if kind == "rollout":
        return collect

    def run() -> int:
        steps = collect()
        model.train()
        return steps

    return run


def _rollouts(model: Any) -> Callable[[], int]:
    """Return a function that collects one rollout and returns the steps taken."""
    from stable_baselines3.common.callbacks import CallbackList

    callback = CallbackList([])
    callback.init_callback(model)

    def run() -> int:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        return int(model.n_steps * model.n_envs)

    return run


def _off_policy_iterations(model: Any, callback: Any) -> Callable[[], int]:
    """Return a function that collects and updates for `_STEPS` steps and returns the steps taken."""

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
                # By position, as in `learn`, because SBX and SB3 have different names for the minibatch size.
                model.train(model.gradient_steps, model.batch_size)
        return int(model.num_timesteps - before)

    return run


def _original_envs(world: str, num_envs: int) -> Any:
    """Return a DummyVecEnv, SB3's loop over single environments, with Gymnasium's or MinAtar's environment."""
    import gymnasium
    import numpy as np
    from stable_baselines3.common.env_util import make_vec_env

    if world in ORIGINALS:
        return make_vec_env(ORIGINALS[world], num_envs)
    from minatar.gym import BaseEnv

    def game() -> Any:
        env = BaseEnv(GAME_PEERS["minatar"][world], use_minimal_action_set=True)
        return gymnasium.wrappers.DtypeObservation(env, np.float32)  # MinAtar's dtype is bool

    return make_vec_env(game, num_envs)


def sb3_model(world: str, setting: Setting) -> Any:
    """Return SB3's model over original environments."""
    from stable_baselines3 import DQN, PPO

    from rl_lab.learners.sb3.policies import policy_arguments

    env = _original_envs(world, setting.num_envs)
    info = make.make(world, 1).world
    network = policy_arguments(info, *(setting.config[name] for name in ("policy", "net_arch", "activation")))
    algorithm = {"ppo": PPO, "dqn": DQN}[setting.agent]
    return algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=network, **setting.arguments())


def sbx_model(world: str, setting: Setting) -> Any:
    """Return SBX's model over original environments."""
    import flax.linen
    import sbx

    config = setting.config
    if config["policy"] != "mlp":
        raise UsageError("sbx has no such network: its own convolutions are of another size; use --vs sb3 or stock")
    network = {"net_arch": list(config["net_arch"]), "activation_fn": getattr(flax.linen, config["activation"])}
    algorithm = {"ppo": sbx.PPO, "dqn": sbx.DQN}[setting.agent]
    env = _original_envs(world, setting.num_envs)
    return algorithm("MlpPolicy", env, seed=0, policy_kwargs=network, **setting.arguments())
