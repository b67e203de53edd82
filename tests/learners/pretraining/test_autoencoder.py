"""The variational autoencoder: what it reconstructs, of boards and of vectors, and what its pictures are of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box, Discrete
from support.backbones import train, trainer_of
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.learners.pretraining import networks

BOARD = cartpole_metadata(Box(0, 1, (4, 5, 2), np.uint8), Discrete(3))


def write_vectors(path: Path) -> Path:
    """Write vectors of 4 numbers that two factors decide, in different scales. The last one is always 5."""
    columns = random_columns(cartpole_metadata(), [25] * 60)
    factors = np.random.default_rng(0).normal(size=(len(columns.rewards), 2))
    numbers = factors @ [[1.0, 0.5, -1.0, 2.0], [0.0, 1.0, 1.0, -1.0]] * [1.0, 0.1, 2.0, 0.0] + [0, 0.5, 0, 5]
    write_data_set(path, cartpole_metadata(), dataclasses.replace(columns, observations=numbers.astype(np.float32)))
    return path


def write_boards(path: Path) -> Path:
    """Write boards with one cell in the first channel, and its whole column in the second."""
    columns = random_columns(BOARD, [20] * 60)
    rng, boards = np.random.default_rng(0), np.zeros((len(columns.rewards), 4, 5, 2), np.uint8)
    rows, sides = rng.integers(0, 4, len(boards)), rng.integers(0, 5, len(boards))
    boards[np.arange(len(boards)), rows, sides, 0] = 1
    boards[np.arange(len(boards)), :, sides, 1] = 1
    write_data_set(path, BOARD, dataclasses.replace(columns, observations=boards))
    return path


def test_vectors_are_reconstructed_in_their_own_units(tmp_path: Path) -> None:
    trainer = train(trainer_of(write_vectors(tmp_path / "d"), "vae", epochs=12, latent_size=3))
    assert trainer.best_scores["explained_variance"] > 0.9
    trainer.load_best()
    pictures = trainer.method.pictures(trainer.model, 20)
    assert list(pictures) == ["recorded", "reconstructed", "sampled"]
    error = np.abs(pictures["recorded"] - pictures["reconstructed"]).max(0)
    assert (error < [1.0, 0.15, 2.5, 0.1]).all()
    assert abs(pictures["sampled"][:, 1].mean() - 0.5) < 0.2


def test_numbers_that_never_change_count_in_no_score(tmp_path: Path) -> None:
    """A decoder that knows nothing but the mean explains nothing, however many numbers are constant."""
    path = write_vectors(tmp_path / "d")
    trainer = train(trainer_of(path, "vae", epochs=1, latent_size=1, beta=1000.0))
    assert trainer.best_scores["explained_variance"] < 0.2


def test_boards_are_reconstructed_as_probabilities(tmp_path: Path) -> None:
    trainer = train(trainer_of(write_boards(tmp_path / "d"), "vae", epochs=14, latent_size=8, beta=0.2))
    assert trainer.best_scores["f1"] > 0.9 and trainer.best_scores["active_latents"] >= 2
    pictures = trainer.method.pictures(trainer.model, 5)
    for observations in pictures.values():
        assert observations.shape == (5, 4, 5, 2) and observations.min() >= 0 and observations.max() <= 1
    assert (pictures["recorded"] == np.round(pictures["reconstructed"])).mean() > 0.9


def test_a_large_beta_leaves_nothing_in_the_latent_vector(tmp_path: Path) -> None:
    path = write_boards(tmp_path / "d")
    scores = train(trainer_of(path, "vae", epochs=3, beta=100.0)).best_scores
    assert scores["active_latents"] == 0 and scores["divergence"] < 0.5


def test_any_backbone_is_an_encoder(tmp_path: Path) -> None:
    path = write_boards(tmp_path / "d")
    for kind, config in (("cnn", {"features": 16}), ("attention", {"width": 16, "layers": 1})):
        trainer = trainer_of(path, "vae", networks.network_of(kind, config), epochs=1)
        before = trainer.validate()["elbo"]
        assert train(trainer).best_scores["elbo"] > before
