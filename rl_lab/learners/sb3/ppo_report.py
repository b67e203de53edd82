"""Logs after a compiled PPO update what Stable-Baselines3's PPO logs after its own, to the model's logger."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.utils import explained_variance

from rl_lab.core.world import Array
from rl_lab.learners.compiled import ppo_records
from rl_lab.learners.sb3.masked_rollout_buffers import (
    CompleteTransitionMaskableRolloutBuffer,
    CompleteTransitionRolloutBuffer,
)


def log_update(model: Any, report: Array, clip_range: float) -> None:
    """Log the report of a compiled update under the names that `PPO.train` uses.

    `model` is the PPO; `report`, float64 [REPORTED], is `totals` of `ppo_records.UpdateReport`.
    """
    buffer, logger = model.rollout_buffer, model.logger
    for name, column in (
        ("entropy_loss", ppo_records.ENTROPY_LOSS),
        ("policy_gradient_loss", ppo_records.POLICY_LOSS),
        ("value_loss", ppo_records.VALUE_LOSS),
        ("approx_kl", ppo_records.APPROX_KL),
        ("clip_fraction", ppo_records.CLIP_FRACTION),
        ("loss", ppo_records.LOSS),
    ):
        logger.record(f"train/{name}", float(report[column]))
    if isinstance(buffer, CompleteTransitionRolloutBuffer | CompleteTransitionMaskableRolloutBuffer):
        explained = buffer.explained_variance()
    else:
        explained = float(explained_variance(buffer.values.reshape(-1), buffer.returns.reshape(-1)))
    logger.record("train/explained_variance", explained)
    if hasattr(model.policy, "log_std"):
        logger.record("train/std", torch.exp(model.policy.log_std).mean().item())
    logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
    logger.record("train/clip_range", clip_range)
