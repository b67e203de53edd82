"""Transitions that are pending between two fragments are part of a learner's state."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rl_lab.adapters.make import make
from rl_lab.core import agent_registry
from rl_lab.core.agent import Learner

pytest.importorskip("ray", reason="needs the extra rllib")


@pytest.fixture(scope="module")
def of_turns() -> Iterator[tuple[Learner, Any]]:
    """A learner of both sides of a game of turns; after each fragment, transitions are pending."""
    factory: Any = agent_registry.load("rllib_ppo")
    config = factory.Config(train_batch_size_per_learner=40, minibatch_size=16, num_epochs=2, net_arch=[8])
    envs = make("tic_tac_toe", 4, seed=3)
    made: Learner = factory.learner(config, envs, budget=400, seed=0, device="cpu")
    made.train_iteration()
    yield made, envs
    made.close()


def test_pending_transitions_are_part_of_the_state(of_turns: tuple[Learner, Any]) -> None:
    learner, envs = of_turns
    saved, world = copy.deepcopy(learner.save()), envs.snapshot()
    assert len(saved.tensors["pending"]["0.rows"]) > 0

    def go_on() -> Any:
        learner.restore(copy.deepcopy(saved))
        envs.restore(world)
        for _ in range(3):
            learner.train_iteration()
        return learner.save()

    first, again = go_on(), go_on()
    for group, arrays in first.tensors.items():
        assert arrays.keys() == again.tensors[group].keys()
        assert all(np.array_equal(array, again.tensors[group][name]) for name, array in arrays.items()), group
    assert first.state == again.state


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("0.rows", np.array([0, 0])),
        ("0.rows", np.array([10**9])),
        ("0.observations", np.zeros((1, 2), np.float32)),
        ("0.rewards", np.full(8, np.nan, np.float32)),
        ("7.rows", np.zeros(0, np.int64)),
    ],
)
def test_edited_pending_transitions_are_refused(of_turns: tuple[Learner, Any], name: str, value: np.ndarray) -> None:
    learner, _ = of_turns
    saved = copy.deepcopy(learner.save())
    saved.tensors["pending"][name] = value
    with pytest.raises(ValueError, match="pending"):
        learner.restore(saved)
