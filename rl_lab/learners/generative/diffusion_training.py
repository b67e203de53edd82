"""The training of a diffusion policy: the network learns to remove noise that was added to recorded actions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array
from rl_lab.learners.generative import windows
from rl_lab.learners.generative.diffusion_agent import require_diffusible
from rl_lab.learners.generative.diffusion_network import DiffusionPolicy, training_scheduler
from rl_lab.learners.generative.method import GenerativeMethod
from rl_lab.learners.generative.settings import DiffusionConfig
from rl_lab.learners.pretraining.examples import ExampleBatch, Examples

_VALIDATION_SEED = 0  # of the noise in validation, which is the same in every epoch


class DiffusionModel(nn.Module):
    """The network that is trained, `policy`, and the one that acts, whose parameters are averages over the updates.

    The trainer trains a head on a trunk; here the head is all of the network.
    """

    def __init__(self, observation_size: int, action_size: int, config: DiffusionConfig) -> None:
        super().__init__()
        self.network = DiffusionPolicy(observation_size, action_size, config)
        self.trunk, self.policy = nn.Identity(), copy.deepcopy(self.network.denoiser)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.updates: torch.Tensor


class DiffusionTraining(GenerativeMethod):
    """The method of pretraining. The score is the share of the actions' variance that denoising explains.

    Raises ValueError for hyperparameters and worlds that do not fit.
    """

    score = "explained_variance"
    model: DiffusionModel

    def __init__(self, config: DiffusionConfig, world: EnvSpec, examples: Examples, seed: int) -> None:
        super().__init__(seed)
        config.check()
        space = require_diffusible(world)
        self.config, self.examples, self.scheduler = config, examples, training_scheduler(config)
        data, rows = examples.data, examples.train
        observations = np.asarray(data.observations[rows], np.float32).reshape(len(rows), -1)
        self.model = DiffusionModel(observations.shape[1], space.shape[0], config)
        self.model.network.observations.fit_range(observations)
        self.model.network.actions.fit_range(np.asarray(data.actions[rows]))

    def agent_network(self, model: Any) -> nn.Module:
        """Return the network of a trained model whose parameters the agent has."""
        network: nn.Module = model.network
        return network

    def _batch(self, model: DiffusionModel, rows: Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled observations before these transitions, [B, H, D], and the actions from them on."""
        data, config = self.examples.data, self.config
        before = windows.around(data, rows, 1 - config.history, config.history)
        after = windows.around(data, rows, 0, config.horizon)
        observations = np.asarray(data.observations[before], np.float32).reshape(*before.shape, -1)
        network = model.network
        return network.observations(self.examples.tensor(observations)), network.actions(
            self.examples.tensor(data.actions[after])
        )

    def loss(self, model: Any, batch: ExampleBatch) -> torch.Tensor:
        """Return the mean squared error of denoised actions, at a random level of noise for each row."""
        history, actions = self._batch(model, batch.rows)
        noise = torch.randn(actions.shape).to(actions.device)  # of the generator that the trainer seeds, on the CPU
        levels = torch.randint(self.config.noise_levels, (len(actions),)).to(actions.device)
        noisy = self.scheduler.add_noise(actions, noise, levels)
        return nn.functional.mse_loss(model.policy(noisy, levels, history), actions)

    def after_update(self, model: Any) -> None:
        """Move the averaged parameters towards the trained ones; the first updates count more."""
        model.updates += 1
        count = int(model.updates)
        decay = min(self.config.average_decay, (1 + count) / (10 + count))
        with torch.no_grad():
            pairs = zip(model.network.denoiser.parameters(), model.policy.parameters(), strict=True)
            for average, trained in pairs:
                average.lerp_(trained, 1 - decay)

    def predict(self, model: Any, batch: ExampleBatch) -> Mapping[str, Array]:
        """Return the squared errors of denoised actions, and those of the first actions that DDIM makes."""
        history, actions = self._batch(model, batch.rows)
        generator = torch.Generator().manual_seed(_VALIDATION_SEED)
        noise = torch.randn(actions.shape, generator=generator).to(actions.device)
        levels = torch.randint(self.config.noise_levels, (len(actions),), generator=generator).to(actions.device)
        noisy = self.scheduler.add_noise(actions, noise, levels)
        denoised = model.network.denoiser(noisy, levels, history)
        network, first = model.network, self.config.act_steps
        sampled = network(network.observations.inverse(history), noise)[:, :first]
        recorded = network.actions.inverse(actions)[:, :first]
        errors = {"denoising": (denoised - actions).square(), "actions": (sampled - recorded).square()}
        values = {name: error.mean((1, 2)).cpu().numpy() for name, error in errors.items()}
        return values | {"squares": actions.square().mean((1, 2)).cpu().numpy()}

    def scores(self, predictions: Mapping[str, Array]) -> dict[str, float]:
        """Return the explained share of the actions' mean square, and the squared error of sampled actions."""
        means = {name: float(values.mean(dtype=np.float64)) for name, values in predictions.items()}
        explained = 1 - means["denoising"] / max(means["squares"], 1e-12)
        return {"explained_variance": explained, "squared_error": means["actions"]}
