"""Saves and restores an algorithm's replay buffer and its pending transitions, see `masked_rollout_buffers`.

`training_state` calls it. What comes from a file is checked before it is written to the buffers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecTransposeImage

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.untrusted import checked_array, checked_shape
from rl_lab.core.world import Array
from rl_lab.learners.sb3.masked_replay_buffer import CompleteTransitionReplayBuffer, end_episodes
from rl_lab.learners.sb3.state_validation import arrays_by_name

_REPLAY_ARRAYS: tuple[str, ...] = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_PENDING = "the checkpoint's pending transitions"


def replay_arrays_and_position(model: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the filled part of a replay buffer, and the slot that is written next and whether all slots are filled."""
    buffer = model.replay_buffer
    assert buffer is not None
    filled = buffer.buffer_size if buffer.full else buffer.pos
    return {name: values[:filled] for name, values in _replay_arrays(buffer).items()}, {
        "pos": buffer.pos,
        "full": buffer.full,
    }


def restore_replay(model: Any, arrays: dict[str, Array], position: dict[str, Any]) -> None:
    """Restore what `replay_arrays_and_position` returned. Raises ValueError where it does not fit this buffer."""
    buffer = model.replay_buffer
    assert buffer is not None
    pos, full = position["pos"], position["full"]
    if type(full) is not bool or type(pos) is not int or not 0 <= pos < buffer.buffer_size:
        raise ValueError("replay buffer: its position is out of range")
    if isinstance(model.action_space, Discrete) and arrays["actions"].size:
        lowest, highest = arrays["actions"].min(), arrays["actions"].max()
        if arrays["actions"].dtype.kind not in "iu" or lowest < 0 or highest >= model.action_space.n:
            raise ValueError(f"replay buffer: actions {lowest} to {highest} are outside {model.action_space}")
    for name, target in _replay_arrays(buffer).items():
        filled = len(target) if full else pos
        target[:filled] = checked_shape(arrays[name], f"replay buffer: {name}", target[:filled])
    buffer.pos, buffer.full = pos, full


def _replay_arrays(buffer: Any) -> dict[str, Array]:
    """Return the arrays of a replay buffer by their names in checkpoints."""
    arrays: dict[str, Array] = {}
    for name in _REPLAY_ARRAYS:
        arrays |= arrays_by_name(name, getattr(buffer, name))
    if isinstance(buffer, CompleteTransitionReplayBuffer):
        arrays |= {"next_action_masks": buffer.next_action_masks, "acted": buffer.has_complete_transition}
    return arrays


def pending_arrays(model: Any) -> dict[str, Array] | None:
    """Return the pending transitions by the names in checkpoints; None where every agent acts in every step."""
    vec_env, buffer = _vec_env_and_buffer(model)
    if vec_env is None:
        return None
    arrays = {name: values.copy() for name, values in _pending_targets(vec_env, buffer).items()}
    if not isinstance(
        buffer, CompleteTransitionReplayBuffer
    ):  # rows that have none still hold an earlier one: save zeros
        for name in buffer.pending:
            has_pending = buffer.has_pending.reshape(-1, *(1,) * (arrays[name].ndim - 1))
            arrays[name] = np.where(has_pending, arrays[name], 0)
    return arrays


def restore_pending(model: Any, arrays: dict[str, Array]) -> None:
    """Restore what `pending_arrays` returned, {} for None.

    Where the environments begin new episodes, transitions that are pending in a rollout buffer are dropped.

    Raises:
        ValueError: The names are not those of this learner, or an array does not fit it.
    """
    vec_env, buffer = _vec_env_and_buffer(model)
    targets = {} if vec_env is None else _pending_targets(vec_env, buffer)
    if differing := sorted(set(targets) ^ set(arrays)):
        problem = "missing" if differing[0] in targets else "unknown"
        raise ValueError(f"{_PENDING}: {differing[0]:.80} is {problem}")
    for name, target in targets.items():
        checked_array(arrays[name], f"{_PENDING}: {name}", target)
    if vec_env is None:
        return
    _check_pending(model, buffer, arrays)
    for name, target in targets.items():
        if vec_env.envs.restores_exactly or name == "pending_slots":
            target[...] = arrays[name]
        else:
            target[...] = 0
    if isinstance(buffer, CompleteTransitionReplayBuffer):
        buffer.resets = vec_env.resets


def _vec_env_and_buffer(model: Any) -> tuple[LabVecEnv | None, Any]:
    """Return the buffer, and its vector env if it is a buffer for rows that need not act in each step, else None."""
    buffer = model.rollout_buffer if isinstance(model, OnPolicyAlgorithm) else model.replay_buffer
    return getattr(buffer, "vec_env", None), buffer


def _pending_targets(vec_env: LabVecEnv, buffer: Any) -> dict[str, Array]:
    """Return the learner's own arrays of pending transitions by their names in checkpoints."""
    if isinstance(buffer, CompleteTransitionReplayBuffer):
        return {"agent_done": vec_env.agent_done, "pending_slots": buffer.pending_slots}
    return {"agent_done": vec_env.agent_done, "has_pending": buffer.has_pending, **buffer.pending}


def _check_pending(model: Any, buffer: Any, saved: dict[str, Array]) -> None:
    """Raise ValueError for pending transitions that are not in the replay buffer, or whose actions are illegal."""
    if isinstance(buffer, CompleteTransitionReplayBuffer):
        slots, filled = saved["pending_slots"], buffer.buffer_size if buffer.full else buffer.pos
        if (slots < -1).any() or (slots >= filled).any():
            raise ValueError(f"{_PENDING}: slots {slots.min()} to {slots.max()}; the replay buffer has {filled}")
    elif isinstance(model.action_space, Discrete):
        actions = saved["actions"]
        if (actions < 0).any() or (actions >= model.action_space.n).any():
            raise ValueError(f"{_PENDING}: actions {actions.min()} to {actions.max()} are outside {model.action_space}")
        masks = saved.get("action_masks")
        if masks is not None:
            is_legal = np.take_along_axis(masks, actions.astype(np.int64), 1)
            if not is_legal[saved["has_pending"]].all():
                raise ValueError(f"{_PENDING}: illegal actions")


def observe_new_episodes(model: Any) -> None:
    """Replace the last observations, where the environments do not resume exactly, by those of their new episodes."""
    vec_env = model.env.unwrapped
    if not isinstance(vec_env, LabVecEnv) or vec_env.envs.restores_exactly:
        return
    if not isinstance(model, OnPolicyAlgorithm):
        end_episodes(model.replay_buffer)
    obs = vec_env.current_observations()
    if (normalizer := model.get_vec_normalize_env()) is not None:
        normalizer.old_obs = model._last_original_obs = obs
        normalizer.returns = np.zeros(vec_env.num_envs)
        obs = normalizer.normalize_obs(obs)
    if isinstance(model.env, VecTransposeImage):
        obs = model.env.transpose_observations(obs)
    model._last_obs, model._last_episode_starts = obs, np.ones(vec_env.num_envs, np.bool_)
