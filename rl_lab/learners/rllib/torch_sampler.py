"""Samples a fragment step by step: in each, the policy acts in all environments, with torch, and these are stepped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.learners.rllib.fragment import Fragment, Sample
from rl_lab.learners.rllib.policy_builder import backbone_of

# (observations [B, ...], masks, uint8 [B, n], or None): actions, log probabilities, and inputs of the distribution
Act = Callable[[Array, Array | None], tuple[Array, Array, Array]]
# observations [B, ...]: what the policy gets, [B, ...], in an array of its own
Encode = Callable[[Array], Array]


def sample_fragment(
    module: Any, envs: BatchedEnv, num_steps: int, *, act: Act | None = None, encode: Encode = np.copy
) -> Sample:
    """Step the environments `num_steps` times with actions of `act`, by default those that the module samples.

    They are sampled by torch's global generator, and clipped to the module's action space. An episode that ends is
    followed by the next in the same step. The environments were reset before. The fragment has the observations that
    `encode` returns.
    """
    sample, space, act = Sample(), module.action_space, act or torch_act(module)
    steps = [_step(act, encode, space, envs, sample) for _ in range(num_steps)]
    columns: dict[str, Any] = {name: np.stack([step[name] for step in steps]) for name in steps[0] if name != "final"}
    mask, acting = columns.pop("action_mask", None), columns.pop("acting", None)
    final, observations = np.concatenate([step["final"] for step in steps]), columns["observations"]
    sample.fragment = Fragment(
        **columns,
        final_observations=encode(final) if len(final) else observations[0, :0],
        last_observations=encode(_by_row(envs.observations)),
        action_mask=mask,
        last_action_mask=None if mask is None else _by_row(envs.action_mask).copy(),
        acting=acting,
        last_acting=None if acting is None else _by_row(envs.acting).copy(),
    )
    return sample


def torch_act(module: Any) -> Act:
    """Return a function that acts with torch, by its global generator."""

    def act(observations: Array, action_mask: Array | None) -> tuple[Array, Array, Array]:
        with torch.no_grad():
            inputs = module.outputs(batch_on_device(module, observations, action_mask))[0]
            distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
            actions = distribution.sample()
            log_probs = distribution.logp(actions)
            return actions.cpu().numpy(), log_probs.cpu().numpy(), inputs.cpu().numpy()

    return act


def batch_on_device(module: Any, observations: Array, action_mask: Array | None) -> dict[str, torch.Tensor]:
    """Return what a module acts on, as tensors [B, ...] on the device of its parameters."""
    device = next(module.parameters()).device
    batch = {"obs": torch.from_numpy(observations).to(device)}
    if action_mask is not None:
        batch["action_mask"] = torch.from_numpy(action_mask != 0).to(device)
    return batch


def encoder_of(module: Any) -> Encode:
    """Return what makes of observations those that the module's policy gets: copies, or a backbone's features."""
    backbone = backbone_of(module)
    device = next(module.parameters()).device.type
    encoder = None if backbone is None else backbone.encoder(device)
    return np.copy if encoder is None else encoder


def _step(act: Act, encode: Encode, space: Any, envs: BatchedEnv, sample: Sample) -> dict[str, Array]:
    begin, rows = time.perf_counter(), envs.rewards.size
    observations = encode(_by_row(envs.observations))
    step = {"observations": observations}
    if envs.world.has_action_mask:
        step["action_mask"] = _by_row(envs.action_mask).copy()
    if envs.world.is_multi_agent:
        step["acting"] = _by_row(envs.acting).copy()
    step["actions"], step["action_logp"], step["action_dist_inputs"] = act(observations, step.get("action_mask"))
    sampled = time.perf_counter()
    clipped_actions = np.clip(step["actions"], space.low, space.high) if isinstance(space, Box) else step["actions"]
    envs.actions[...] = clipped_actions.reshape(envs.actions.shape)
    envs.step()
    step["rewards"] = envs.rewards.reshape(rows).copy()
    step["terminated"] = np.array(envs.agent_terminated).reshape(rows)
    step["truncated"] = np.array(envs.agent_truncated).reshape(rows)
    over = (step["terminated"] | step["truncated"]).reshape(envs.rewards.shape)
    step["final"] = _final_observations(envs)[over]
    sample.count_episodes(envs)
    sample.infer_seconds += sampled - begin
    sample.env_seconds += time.perf_counter() - sampled
    return step


def _final_observations(envs: BatchedEnv) -> Array:
    """Return the last observations [N, A, ...] of the episodes that the last step has ended for an agent or for all."""
    if not envs.left_episode.any():
        return envs.final_observations
    # An agent that left has its last observation in `observations`, unless the episode has ended for all.
    ended = envs.done.reshape(-1, *(1,) * (envs.observations.ndim - 1))
    return np.where(ended, envs.final_observations, envs.observations)


def _by_row(array: Array) -> Array:
    """Return [N, A, ...] as rows [N * A, ...]."""
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
