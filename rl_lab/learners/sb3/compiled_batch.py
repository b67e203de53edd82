"""Which environments compiled code can step without Python in between."""

from __future__ import annotations

from typing import TypeGuard

from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.protocols import BatchedEnv
from rl_lab.engine.batch import Batch


def lab_env_of(env: VecEnv) -> LabVecEnv | None:
    """Return the lab's environments, also below a VecNormalize; None for others."""
    inner = env.venv if type(env) is VecNormalize else env
    return inner if isinstance(inner, LabVecEnv) else None


def compiled_batch_of(lab_env: LabVecEnv) -> Batch | None:
    """Return the batch below, if compiled code can act in it without Python."""
    if lab_env.has_agent_indicator or not vars(type(lab_env)).get("supports_compiled_rollout"):
        return None
    return lab_env.envs if is_compiled_batch(lab_env.envs) else None


def is_compiled_batch(envs: BatchedEnv) -> TypeGuard[Batch]:
    """Return whether compiled code can act in these environments without Python: all agents act in every step."""
    if not isinstance(envs, Batch) or envs.plain:
        return False
    return not (envs.world.current_player_field or envs.world.alive_field)
