"""Observations that a frozen backbone encodes before the policy gets them, so that the policy learns from features.

The rollout or replay buffer holds features, and no update computes the trunk again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.learners.pretraining import networks
from rl_lab.learners.pretraining.model import tensor_hash
from rl_lab.learners.pretraining.spec import BackboneSpec
from rl_lab.learners.sb3.training_state import as_arrays


class Encoder:
    """The trunk of a backbone as a function of arrays. Raises ValueError where the parameters are not this trunk's."""

    def __init__(self, spec: BackboneSpec, trunk: Mapping[str, torch.Tensor], device: str) -> None:
        self.shape = spec.observation.shape
        space = spec.observation.space()
        with torch.random.fork_rng(devices=[]):
            self.module = networks.build(spec.network, space)
        try:
            self.module.load_state_dict(dict(trunk))
        except RuntimeError as error:
            raise ValueError(f"the parameters do not fit the backbone: {error}") from None
        if tensor_hash(self.module.state_dict()) != tensor_hash(trunk):
            raise ValueError("the backbone's trunk was not loaded bit for bit")
        width = networks.width_of(self.module, space, spec.network.kind)
        self.space = Box(-np.inf, np.inf, (width,), np.float32)
        self.device = device
        self.module.to(device).eval().requires_grad_(False)

    def __call__(self, observations: Array) -> Array:
        """Return features, float32 [B, width], of observations [B, *shape]; those of longer vectors are cut."""
        if len(self.shape) == 1:
            observations = observations[:, : self.shape[0]]
        with torch.no_grad():
            features = self.module(torch.from_numpy(np.array(observations)).to(self.device))
        return np.asarray(features.cpu().numpy())

    def arrays(self) -> dict[str, Array]:
        """Return copies of the trunk's parameters by name."""
        return as_arrays(self.module.state_dict())


class TimedVecEnv(LabVecEnv):
    """A vector env that measures the time of its steps in seconds."""

    supports_compiled_rollout = True
    seconds = 0.0

    def step_wait(self) -> Any:
        """See `LabVecEnv.step_wait`."""
        begin = time.perf_counter()
        result = super().step_wait()
        self.seconds += time.perf_counter() - begin
        return result


class EncodedVecEnv(TimedVecEnv):
    """A vector env whose observations, also those at the end of episodes, are features of an encoder."""

    def __init__(self, envs: BatchedEnv, encoder: Encoder) -> None:
        super().__init__(envs)
        self._encoder = encoder
        self.observation_space = encoder.space

    def _policy_observations(self, observations: Array) -> Any:
        return self._encoder(observations)

    def _write_infos(self, ends: Array, infos: list[dict[str, Any]]) -> None:
        super()._write_infos(ends, infos)
        ended = [infos[row] for row in np.flatnonzero(ends).tolist()]
        if ended:
            features = self._encoder(np.stack([info["terminal_observation"] for info in ended]))
            for info, row in zip(ended, features, strict=True):
                info["terminal_observation"] = row
