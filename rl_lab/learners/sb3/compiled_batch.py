"""Which environments compiled code can step without Python in between, and which callbacks allow it.

Where one of these functions says no, the learners step the environments in a Python loop. They change nothing.
"""

from __future__ import annotations

from typing import TypeGuard

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.protocols import BatchedEnv
from rl_lab.engine.batch import Batch


def lab_env_of(env: VecEnv) -> LabVecEnv | None:
    """Return the lab's vector env, which may be inside of a VecNormalize; None for another vector env."""
    inner = env.venv if type(env) is VecNormalize else env
    return inner if isinstance(inner, LabVecEnv) else None


def compiled_batch_of(lab_env: LabVecEnv) -> Batch | None:
    """Return the batch inside of a vector env if compiled code can act in it without Python, else None."""
    # The flag of a base class does not count, because a subclass may override `step_wait`.
    if lab_env.has_agent_indicator or not vars(type(lab_env)).get("supports_compiled_rollout"):
        return None
    return lab_env.envs if is_compiled_batch(lab_env.envs) else None


def is_compiled_batch(envs: BatchedEnv) -> TypeGuard[Batch]:
    """Return whether compiled code can act in these environments without Python: all agents act in every step."""
    if not isinstance(envs, Batch) or envs.plain:
        return False
    return not (envs.world.current_player_field or envs.world.alive_field)


def has_no_callback(callback: BaseCallback) -> bool:
    """Return whether this is what SB3 makes of `callback=None`, so that nothing has to be called in each step."""
    if isinstance(callback, CallbackList):
        return all(map(has_no_callback, callback.callbacks))
    return isinstance(callback, ConvertCallback) and callback.callback is None
