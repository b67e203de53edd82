"""The diffusion policy: a network that removes the noise from sequences of actions, and their sampling.

Source: Chi et al. 2023, "Diffusion Policy: visuomotor policy learning via action diffusion"; Ho, Jain and Abbeel 2020,
"Denoising diffusion probabilistic models"; Song, Meng and Ermon 2021, "Denoising diffusion implicit models" (DDIM). The
schedules of noise are Hugging Face Diffusers'.

Shapes: B rows, H observations of D numbers, T actions of k components.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from rl_lab.learners.generative.requirement import require
from rl_lab.learners.generative.scaler import Scaler
from rl_lab.learners.generative.settings import DiffusionConfig

_LONGEST_PERIOD = 10_000.0  # of the sines that encode a noise level
# The cosine schedule, and a network that predicts the clean actions rather than the noise: a few steps of DDIM are then
# exact enough, because no prediction is divided by a small number.
_SCHEDULE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "clip_sample": True}


class Denoiser(nn.Module):
    """A residual network that predicts clean actions from noisy ones, the noise level and the last observations."""

    def __init__(self, observation_size: int, action_size: int, config: DiffusionConfig) -> None:
        super().__init__()
        self.shape = (config.horizon, action_size)
        condition = config.history * observation_size + config.width
        self.inputs = nn.Linear(config.horizon * action_size, config.width)
        self.blocks = nn.ModuleList(_Block(config.width, condition) for _ in range(config.layers))
        self.outputs = nn.Sequential(
            nn.LayerNorm(config.width), nn.SiLU(), nn.Linear(config.width, config.horizon * action_size)
        )
        self.width = config.width

    def forward(self, noisy: torch.Tensor, levels: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """Return clean actions, float32 [B, T, k], for noisy ones, levels int64 [B] and scaled history [B, H, D]."""
        condition = torch.cat([history.flatten(1), self._encoded(levels)], 1)
        hidden = self.inputs(noisy.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        clean: torch.Tensor = self.outputs(hidden)
        return clean.reshape(len(noisy), *self.shape)

    def _encoded(self, levels: torch.Tensor) -> torch.Tensor:
        """Return sines and cosines of the levels, float32 [B, width]."""
        half = (self.width + 1) // 2
        exponents = torch.arange(half, device=levels.device) / half
        angles = levels[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
        return torch.cat([angles.sin(), angles.cos()], 1)[:, : self.width]


class _Block(nn.Module):
    """A residual block of two layers, to whose hidden units the condition is added."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm, self.condition = nn.LayerNorm(width), nn.Linear(condition, width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        inner = self.first(nn.functional.silu(self.norm(hidden))) + self.condition(condition)
        result: torch.Tensor = hidden + self.second(nn.functional.silu(inner))
        return result


class DiffusionPolicy(nn.Module):
    """A denoiser with the scales of observations and actions, which samples sequences of actions."""

    def __init__(self, observation_size: int, action_size: int, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.denoiser = Denoiser(observation_size, action_size, config)
        self.observations, self.actions = Scaler(observation_size), Scaler(action_size)

    def forward(self, history: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the actions [B, T, k] that DDIM makes of noise [B, T, k], for raw observations [B, H, D]."""
        condition = self.observations(history)
        scheduler = acting_scheduler(self.config)
        sample = noise
        for level in scheduler.timesteps:
            clean = self.denoiser(sample, level.to(noise.device).expand(len(noise)), condition)
            sample = scheduler.step(clean, int(level), sample).prev_sample
        actions: torch.Tensor = self.actions.inverse(sample)
        return actions


def training_scheduler(config: DiffusionConfig) -> Any:
    """Return Diffusers' scheduler that adds noise in training. Raises UsageError where Diffusers is missing."""
    module = require("diffusers.schedulers.scheduling_ddpm", "agent diffusion")
    return module.DDPMScheduler(num_train_timesteps=config.noise_levels, **_SCHEDULE)


@lru_cache
def acting_scheduler(config: DiffusionConfig) -> Any:
    """Return Diffusers' scheduler of DDIM, from the strongest noise on. Raises UsageError as `training_scheduler`."""
    module = require("diffusers.schedulers.scheduling_ddim", "agent diffusion")
    scheduler = module.DDIMScheduler(num_train_timesteps=config.noise_levels, timestep_spacing="trailing", **_SCHEDULE)
    scheduler.set_timesteps(config.denoising_steps)
    return scheduler
