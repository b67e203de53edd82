"""Env runners on machines that have none of the user's files: a trained opponent travels with the training."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra rllib")

from support.commands import run_command
from support.ray_clusters import cluster_of

from rl_lab.core.errors import UsageError
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.experiments.training_envs import packed_recipe_of

TRAIN = "budget=256 video=false evaluation.episodes=2"
WORDS = "agent=rllib_ppo agent.env_runners=2 worlds=4 agent.train_batch_size_per_learner=64 agent.minibatch_size=32"


@pytest.fixture
def champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run, as a path that means nothing elsewhere."""
    monkeypatch.chdir(tmp_path)
    run_command("train", "tic_tac_toe", "agent=ppo", "opponent=random", *TRAIN.split(), "run_dir=champion")
    return Path("champion")


def test_a_trained_opponent_reaches_runners_without_its_run(champion: Path) -> None:
    """The run's folder and the copy in this machine's cache are gone before the runners make their environments.

    The current folder is one from which this process does not import, such as a clone beside an installed package.
    """
    Path("rl_lab").mkdir()
    Path("rl_lab/__init__.py").write_text("raise ImportError('of the current folder')")
    with cluster_of(2) as (cluster, _):
        words = [*WORDS.split(), f"opponent={champion}", f"cluster={cluster.address}"]
        made, made_envs = make_learner(compose("tic_tac_toe", words))
        learner: Any = made
        envs: Any = made_envs
        try:
            shutil.rmtree(champion)
            shutil.rmtree(envs.recipes[0].opponent_files.unpack())
            for _ in range(2):
                assert np.isfinite(list(learner.train_iteration().values())).all()
            assert envs.drain_log()["episodes"] > 0
        finally:
            learner.close()


def test_an_opponent_that_has_changed_on_the_way_is_refused(champion: Path) -> None:
    scenario = compose("tic_tac_toe", [*WORDS.split(), f"opponent={champion}"])
    recipe = packed_recipe_of(scenario)
    run_command("train", "tic_tac_toe", "agent=ppo", "opponent=random", *TRAIN.split(), "seed=5", "run_dir=other")
    other = packed_recipe_of(compose("tic_tac_toe", [*WORDS.split(), "opponent=other"]))
    recipe.make().close()
    with pytest.raises(UsageError, match="is not the agent that it was"):
        dataclasses.replace(recipe, opponent_files=other.opponent_files).make()
