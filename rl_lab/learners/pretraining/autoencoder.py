"""A variational autoencoder: features from which the observation can be drawn again.

The trunk's features give the mean and the deviation of a latent vector, and a decoder makes the observation from a
sample of it. Boards of 0 and 1 are decoded to a probability for each number. Other observations are standardised, and
decoded to the means of Gaussians, whose variance is the mean squared error: that with the largest likelihood.

Source: Kingma and Welling 2014, "Auto-encoding variational Bayes"; Higgins et al. 2017, "beta-VAE"; Rybkin et al. 2021,
"Simple and effective VAE training with calibrated decoders"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from rl_lab.core.random_streams import GeneratorStream
from rl_lab.core.world import Array
from rl_lab.learners.pretraining.base import Method
from rl_lab.learners.pretraining.examples import ExampleBatch, Examples
from rl_lab.learners.pretraining.feature_statistics import feature_statistics
from rl_lab.learners.pretraining.model import BackboneModel

if TYPE_CHECKING:
    from rl_lab.learners.pretraining.trainer import TrainerConfig

_HIDDEN = 256  # units of the decoder
_LEAST_VARIANCE = 1e-5  # of the decoder's Gaussians, of standardised numbers; a density has no upper bound
_MOST_GROWTH = 5  # epochs over which the divergence's weight grows
_ACTIVE_VARIANCE = 0.01  # of a latent number's mean: below it, the number tells nothing (Burda et al. 2016)
_ROWS = 4096


class Autoencoder(Method):
    """The trunk learns to encode observations so that a decoder can reconstruct them."""

    score = "elbo"

    def __init__(self, examples: Examples, model: BackboneModel, config: TrainerConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed, self.device = config, seed, examples.device
        contract = model.spec.observation
        self.is_binary = (contract.dtype, contract.low, contract.high) == ("uint8", 0.0, 1.0)
        self.is_image = contract.dtype == "uint8" and not self.is_binary
        self.shape, numbers = contract.shape, int(np.prod(contract.shape))
        self.encoder = nn.Linear(model.width, 2 * config.latent_size)
        self.decoder = _Decoder(config.latent_size, numbers)
        self.networks["encoder"], self.networks["decoder"] = self.encoder, self.decoder
        if not self.is_binary:
            mean, deviation, varies = _moments(examples)
            if not varies.any():
                raise ValueError("all observations of the data are equal: there is nothing to reconstruct")
            self.decoder.mean.copy_(torch.from_numpy(mean))
            self.decoder.deviation.copy_(torch.from_numpy(deviation))
            self.decoder.varies.copy_(torch.from_numpy(varies))
        self._noise, self._weight = torch.Generator(), config.beta
        self._examples = examples

    def begin_epoch(self, model: BackboneModel, epoch: int) -> None:
        """Seed the noise of the epoch, so that a training that is resumed has the same, and weight the divergence.

        The weight grows to `beta` over the first epochs. The encoder would else give latent numbers up before the
        decoder has learned to use them.
        """
        sequence = np.random.SeedSequence((self.seed, epoch, GeneratorStream.LATENT_NOISE))
        self._noise.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        growth = max(1, min(_MOST_GROWTH, self.config.epochs // 4))
        self._weight = self.config.beta * min(1.0, (epoch + 1) / growth)

    def _standardised(self, observations: torch.Tensor) -> torch.Tensor:
        """Return what is reconstructed, float32 [B, numbers]."""
        flat = observations.flatten(1).float()
        return flat if self.is_binary else (flat - self.decoder.mean) / self.decoder.deviation

    def _encode(self, model: BackboneModel, observations: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return features [B, width], and mean and logarithm of the variance of the latent vector, [B, latent]."""
        features = model.trunk(observations)
        mean, log_variance = self.encoder(features).chunk(2, dim=1)
        return features, mean, log_variance.clamp(-20.0, 20.0)

    def _reconstruct(
        self, model: BackboneModel, batch: ExampleBatch, noise: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Return each row's error [B], divergence from the prior [B], and, for scores, other quantities.

        The error of a board is its negative log likelihood; that of other observations is the mean squared error of the
        numbers that vary in the data.
        """
        features, mean, log_variance = self._encode(model, batch.observations)
        sample = torch.randn(mean.shape, generator=noise).to(mean.device)
        outputs = self.decoder(mean + (log_variance / 2).exp() * sample)
        targets = self._standardised(batch.observations)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        details = {"features": features, "mean": mean}
        if not self.is_binary:
            return (outputs - targets).square()[:, self.decoder.varies].mean(1), divergence, details
        is_set, is_predicted = targets > 0.5, outputs > 0
        details |= {"hits": (is_set & is_predicted).sum(1), "set": is_set.sum(1) + is_predicted.sum(1)}
        losses = nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return losses.sum(1), divergence, details

    def loss(self, model: BackboneModel, batch: ExampleBatch) -> torch.Tensor:
        """Return the negative log likelihood plus the weighted divergence from the prior, a mean over rows."""
        errors, divergence, _ = self._reconstruct(model, batch, self._noise)
        error = errors.mean() if self.is_binary else self._gaussian_loss(errors.mean())
        return error + self._weight * divergence.mean()

    def _gaussian_loss(self, square: torch.Tensor) -> torch.Tensor:
        """Return the negative log likelihood of a row under Gaussians whose variance is the mean squared error."""
        return 0.5 * self.decoder.varies.sum() * ((2 * np.pi * square.clamp(min=_LEAST_VARIANCE)).log() + 1)

    def predict(self, model: BackboneModel, batch: ExampleBatch) -> Mapping[str, Array]:
        """Return error, divergence, latent mean and features of each row.

        The noise depends on the rows alone, so that epochs are compared on the same samples.
        """
        noise = torch.Generator().manual_seed(int(batch.rows[0]))
        errors, divergence, details = self._reconstruct(model, batch, noise)
        details |= {"errors": errors, "divergence": divergence}
        return {name: value.cpu().numpy() for name, value in details.items()}

    def scores(self, predictions: Mapping[str, Array]) -> dict[str, float]:
        """Return the bound that is maximised, its divergence, the quality of reconstructions, and the latent numbers.

        `elbo` has the weight `beta`. `f1` is the harmonic mean of precision and recall over the numbers that are 1;
        of other observations, `explained_variance` is the share of the variance that reconstructions explain.
        """
        divergence, error = (float(predictions[name].mean(dtype=np.float64)) for name in ("divergence", "errors"))
        if self.is_binary:
            f1 = 2 * float(predictions["hits"].sum()) / max(float(predictions["set"].sum()), 1.0)
            scores = {"elbo": -error - self.config.beta * divergence, "divergence": divergence, "f1": f1}
        else:
            loss = float(self._gaussian_loss(torch.tensor(error)))
            scores = {"elbo": -loss - self.config.beta * divergence, "divergence": divergence}
            scores["explained_variance"] = 1 - error
        active = predictions["mean"].astype(np.float64).var(0) > _ACTIVE_VARIANCE
        statistics = feature_statistics(predictions["features"])
        return scores | {"active_latents": float(active.sum())} | statistics.as_scores()

    def _decode(self, latents: torch.Tensor) -> Array:
        """Return observations, [B, *shape], of latent vectors; boards of 0 and 1 are probabilities, float32."""
        decoder, outputs = self.decoder, self.decoder(latents)
        if self.is_binary:
            outputs = outputs.sigmoid()
        else:  # the decoder has learned nothing about numbers that never change
            outputs = torch.where(decoder.varies, outputs, 0.0) * decoder.deviation + decoder.mean
        observations = np.asarray(outputs.reshape(-1, *self.shape).cpu().numpy())
        return observations if not self.is_image else np.clip(observations.round(), 0, 255).astype(np.uint8)

    def pictures(self, model: BackboneModel, count: int) -> dict[str, Array]:
        """Return observations of validation episodes, their reconstructions, and samples from the prior."""
        rows = self._examples.validation
        batch = self._examples.batch(rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)])
        noise = torch.randn((count, self.config.latent_size), generator=torch.Generator().manual_seed(self.seed))
        with torch.no_grad():
            _, mean, _ = self._encode(model, batch.observations)
            return {
                "recorded": batch.observations.cpu().numpy(),
                "reconstructed": self._decode(mean),
                "sampled": self._decode(noise.to(mean.device)),
            }


class _Decoder(nn.Module):
    """Dense layers from latent vectors [B, latent] to numbers [B, numbers], and how these are standardised."""

    mean: torch.Tensor
    deviation: torch.Tensor
    varies: torch.Tensor  # bool [numbers]: whether a number changes in the data

    def __init__(self, latent_size: int, numbers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent_size, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, numbers),
        )
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("deviation", torch.ones(numbers))
        self.register_buffer("varies", torch.ones(numbers, dtype=torch.bool))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(latents)
        return outputs


def _moments(examples: Examples) -> tuple[Array, Array, Array]:
    """Return mean and standard deviation of each number of the training observations, float32 [numbers].

    The third array says whether the number changes, bool [numbers]; else its deviation is 1.
    """
    data, rows = examples.data, examples.train
    total = squares = np.zeros(int(np.prod(data.observations.shape[1:])))
    for first in range(0, len(rows), _ROWS):
        part = np.asarray(data.observations[rows[first : first + _ROWS]], np.float64)
        part = part.reshape(len(part), -1)
        total, squares = total + part.sum(0), squares + np.square(part).sum(0)
    mean = total / len(rows)
    deviation = np.sqrt(np.clip(squares / len(rows) - np.square(mean), 0.0, None))
    varies = deviation >= 1e-5 * (1 + np.abs(mean))
    deviation[~varies] = 1.0
    return mean.astype(np.float32), deviation.astype(np.float32), varies
