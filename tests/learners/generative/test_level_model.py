"""The model of levels learns which symbols a level has, and makes the same levels with the same seed."""

from __future__ import annotations

import numpy as np
import torch

from rl_lab.core.levels import Levels
from rl_lab.learners.generative.level_network import sample_grids
from rl_lab.learners.generative.level_training import LevelExamples, LevelSet, LevelTraining
from rl_lab.learners.generative.settings import LevelModelConfig
from rl_lab.learners.pretraining.trainer import PretrainingTrainer, TrainerConfig

# Toy levels of two rows and three columns, each with one agent and one exit.
LEVELS = Levels((2, 3), ".@X", "@X", lambda state: [])
CONFIG = LevelModelConfig(width=16, layers=2, heads=2)


def test_a_model_learns_that_each_level_has_one_agent_and_one_exit() -> None:
    places = [(agent, way_out) for agent in range(6) for way_out in range(6) if agent != way_out]
    grids = np.zeros((30, 6), np.uint8)
    for grid, (agent, way_out) in zip(grids, places, strict=True):
        grid[agent], grid[way_out] = 1, 2
    torch.manual_seed(0)
    method = LevelTraining(CONFIG, LEVELS, seed=0)
    examples = LevelExamples(LevelSet(grids, "toys"), 0.0, 0, "cpu")
    config = TrainerConfig(epochs=150, batch_size=30, learning_rate=1e-2, validation=0.0)
    trainer = PretrainingTrainer(method, method.model, examples, config, seed=0)
    while not trainer.is_done:
        trainer.train_epoch()
    # All 30 levels are equally likely, so the best bound is log(1 / 30) = -3.4.
    assert -4.0 < trainer.best_scores["log_likelihood"] < -3.2
    network = trainer.finished_model().policy
    made, again, other = (
        sample_grids(network, 300, temperature=1.0, seed=seed, device=torch.device("cpu")).numpy() for seed in (1, 1, 2)
    )
    assert LEVELS.are_valid(made).mean() > 0.9 and len(np.unique(made[LEVELS.are_valid(made)], axis=0)) > 25
    assert np.array_equal(made, again) and not np.array_equal(made, other)


def test_levels_to_validate_with_are_not_learned_from() -> None:
    levels = LevelSet(np.arange(60, dtype=np.uint8).reshape(10, 6) % 3, "toys")
    examples = LevelExamples(levels, 0.2, 0, "cpu")
    assert sorted([*examples.train, *examples.validation]) == list(range(10)) and len(examples.validation) == 2
    learned = np.concatenate([batch.rows for batch in examples.epoch(3, seed=0, number=0)])
    assert sorted(learned) == examples.train.tolist()
