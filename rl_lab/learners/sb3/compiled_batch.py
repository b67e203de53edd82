"""Which environments compiled code can step without Python in between."""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.engine.batch import Batch


def lab_env_of(env: VecEnv) -> LabVecEnv | None:
    """Return the lab's environments, also below a VecNormalize; None for others."""
    inner = env.venv if type(env) is VecNormalize else env
    return inner if isinstance(inner, LabVecEnv) else None


def compiled_batch_of(lab_env: LabVecEnv) -> Batch | None:
    """Return the batch below, if compiled code can act in it without Python."""
    batch = lab_env.envs
    if (
        not isinstance(batch, Batch)
        or batch.plain
        or lab_env.has_agent_indicator
        or not vars(type(lab_env)).get("supports_compiled_rollout")
    ):
        return None
    return None if batch.world.current_player_field or batch.world.alive_field else batch
