"""The hyperparameters of generative policies. This module does without torch, so that scenarios are read quickly."""

from __future__ import annotations

from dataclasses import dataclass

from rl_lab.core.agent import check_bounds, hyperparameter


@dataclass(frozen=True)
class DiffusionConfig:
    """The hyperparameters of a diffusion policy."""

    history: int = hyperparameter(2, "observations that a sequence of actions depends on", "steps", low=1, high=64)
    horizon: int = hyperparameter(16, "actions of a sequence", "steps", low=1, high=256)
    act_steps: int = hyperparameter(8, "actions of a sequence that are carried out", "steps", low=1, high=256)
    width: int = hyperparameter(256, "size of a hidden layer", "units", low=2, high=4096)
    layers: int = hyperparameter(3, "residual blocks", low=1, high=32)
    noise_levels: int = hyperparameter(100, "levels of noise in training", low=2, high=1000)
    denoising_steps: int = hyperparameter(10, "steps of DDIM that make a sequence", low=1, high=1000)
    average_decay: float = hyperparameter(0.995, "share of the averaged parameters that stays", low=0, high=0.999999)
    seed: int = hyperparameter(0, "seed of the noise from which actions are made", low=0, high=2**31 - 1)

    def check(self) -> None:
        """Raise ValueError for hyperparameters out of range, or that do not go together."""
        check_bounds(self)
        if self.act_steps > self.horizon:
            raise ValueError(f"act_steps={self.act_steps} is more than horizon={self.horizon}")
        if self.noise_levels % self.denoising_steps:  # DDIM would leave noise in the actions
            raise ValueError(f"denoising_steps={self.denoising_steps} does not divide noise_levels={self.noise_levels}")


@dataclass(frozen=True)
class SequenceConfig:
    """The hyperparameters of a transformer over returns to go, observations and actions."""

    context: int = hyperparameter(20, "transitions that an action depends on", "steps", low=1, high=512)
    target_return: float | None = hyperparameter(None, "return that it aims at; null: the best of the data's episodes")
    width: int = hyperparameter(64, "numbers of a token", low=1, high=4096)
    layers: int = hyperparameter(2, "blocks of attention and a dense part", low=1, high=32)
    heads: int = hyperparameter(2, "attention heads, which divide width", low=1, high=64)
    dropout: float = hyperparameter(0.1, "share of numbers that are dropped in training", low=0, high=0.9)

    def check(self) -> None:
        """Raise ValueError for hyperparameters out of range, or that do not go together."""
        check_bounds(self)
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if self.target_return is not None and not abs(self.target_return) < 1e30:
            raise ValueError(f"target_return={self.target_return}: expected a finite number")


@dataclass(frozen=True)
class LevelModelConfig:
    """The hyperparameters of a model of levels."""

    width: int = hyperparameter(48, "numbers of a cell", low=1, high=4096)
    layers: int = hyperparameter(3, "blocks of attention and a dense part", low=1, high=32)
    heads: int = hyperparameter(4, "attention heads, which divide width", low=1, high=64)
    dropout: float = hyperparameter(0.0, "share of numbers that are dropped in training", low=0, high=0.9)
    levels: int = hyperparameter(2000, "levels of the world's own to learn from", low=2, high=100_000)
    samples: int = hyperparameter(2000, "levels that are made in the end", low=1, high=100_000)
    temperature: float = hyperparameter(1.0, "scale of the randomness of the symbols", low=0.01, high=100)

    def check(self) -> None:
        """Raise ValueError for hyperparameters out of range, or that do not go together."""
        check_bounds(self)
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
