"""Linear probes: what is to be predicted of a transition, and what the scores say of known features."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.core.errors import UsageError
from rl_lab.datasets.dataset import Dataset, open_dataset
from rl_lab.learners.pretraining import linear_probe
from rl_lab.learners.pretraining.probe_targets import ProbeTarget, targets

RNG = np.random.default_rng(0)
ROWS = np.arange(300), np.arange(300, 400)
EVERY = np.ones(400, np.bool_)


def board_data(path: Path, channels_first: bool) -> Dataset:
    """Return 2 episodes of 6 boards [5, 4, 3] or [3, 5, 4].

    The channels show one cell that moves, two cells, and one cell in some boards only.
    """
    about = cartpole_metadata(Box(0, 1, (3, 5, 4) if channels_first else (5, 4, 3), np.uint8), Discrete(3))
    columns = random_columns(about, [6, 6])
    boards = np.zeros((12, 5, 4, 3), np.uint8)
    for k in range(12):
        boards[k, k % 5, k % 4, 0] = boards[k, 0, 1, 1] = boards[k, 2, 1, 1] = 1
        boards[k, 4, k % 4, 2] = k < 9
    boards = boards.transpose(0, 3, 1, 2) if channels_first else boards
    rewards = np.ones_like(columns.rewards)
    write_data_set(path, about, dataclasses.replace(columns, observations=boards, rewards=rewards))
    return open_dataset(path)


@pytest.mark.parametrize("channels_first", [False, True])
def test_targets_of_boards(tmp_path: Path, channels_first: bool) -> None:
    data = board_data(tmp_path / "d", channels_first)
    steps = np.array([0, 5, 6, 11, 3])
    found = {target.name: target for target in targets(data, steps)}
    assert list(found) == [
        "log steps left",
        "action",
        "cell of channel 0",
        "cell of channel 2",
    ]  # rewards are all equal
    assert found["log steps left"].values[:, 0] == pytest.approx(np.log([6, 1, 6, 1, 3]))
    assert found["action"].is_class and found["action"].values.tolist() == data.actions[steps].tolist()
    assert found["cell of channel 0"].values.tolist() == [[k % 5, k % 4] for k in steps]
    defined, values = found["cell of channel 2"].at(np.array([0, 3, 4]))
    assert defined.tolist() == [0, 4] and values.tolist() == [[4.0, 0.0], [4.0, 3.0]]


def test_numbers_that_features_have_are_explained_and_others_are_not() -> None:
    features = RNG.normal(size=(400, 6)).astype(np.float32)
    linear = ProbeTarget("linear", features[:, :2] @ [[100.0, 0.0], [3.0, 1e-3]] + 7.0, EVERY)
    noise = ProbeTarget("noise", RNG.normal(size=(400, 1)), EVERY)
    assert linear_probe.score(features, linear, *ROWS) == pytest.approx(1.0, abs=1e-3)
    assert abs(linear_probe.score(features, noise, *ROWS) or 1.0) < 0.2
    assert abs(linear_probe.constant_score(linear, *ROWS) or 1.0) < 0.1


def test_classes_are_scored_by_accuracy() -> None:
    features = RNG.normal(size=(400, 3)).astype(np.float32)
    classes = ProbeTarget("classes", np.where(features[:, 0] > 0, 2, np.where(features[:, 1] > 1, 1, 0)), EVERY)
    accuracy, chance = linear_probe.score(features, classes, *ROWS), linear_probe.constant_score(classes, *ROWS)
    assert chance == (classes.values[300:] == np.bincount(classes.values[:300]).argmax()).mean()
    assert accuracy is not None and accuracy > 0.9 > chance


def test_rows_without_a_value_do_not_count() -> None:
    features, is_defined = RNG.normal(size=(400, 3)).astype(np.float32), np.arange(400) % 2 == 0
    values = np.where(is_defined[:, None], features[:, :1], 1e6)
    assert linear_probe.score(features, ProbeTarget("half", values, is_defined), *ROWS) == pytest.approx(1.0, abs=1e-3)
    same = ProbeTarget("same", np.where(np.arange(400) < 300, 1.0, 2.0)[:, None], EVERY)
    assert linear_probe.score(features, same, *ROWS) is None  # one value to fit to


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r'pip install "rl-lab\[probes\]"'):
        linear_probe.require_sklearn()
