"""What the methods of generative policies have in common: a model of their own, and random numbers for each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from rl_lab.core.random_streams import GeneratorStream
from rl_lab.learners.pretraining.base import Method


class GenerativeMethod(Method):
    """A method that makes its model itself. The trainer trains a head on a trunk; here the head is the network.

    Torch's global generator is seeded before each epoch, so that a training that is continued has the same bits.
    """

    head = "policy"
    model: nn.Module

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def begin_epoch(self, model: Any, epoch: int) -> None:
        """Seed torch's generator, from which noise and dropout are drawn."""
        generator = np.random.default_rng((self.seed, epoch, GeneratorStream.GENERATIVE_TRAINING))
        torch.manual_seed(int(generator.integers(2**62)))

    def agent_network(self, model: Any) -> nn.Module:
        """Return the network of a trained model whose parameters the agent has."""
        raise NotImplementedError
