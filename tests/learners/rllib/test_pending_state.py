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


def _edited(name: str, edit: Any) -> Any:
    def apply(pending: dict[str, np.ndarray]) -> None:
        pending[name] = pending[name].copy()
        edit(pending[name])

    return apply


def _swap(rows: np.ndarray) -> None:
    rows[:2] = rows[1::-1]


EDITS: dict[str, Any] = {
    "two rows in the wrong order": _edited("0.rows", _swap),
    "a row twice": _edited("0.rows", lambda rows: rows.put(1, rows[0])),
    "a row that is not there": _edited("0.rows", lambda rows: rows.put(-1, 8)),
    "a negative row": _edited("0.rows", lambda rows: rows.put(0, -1)),
    "a reward that is no number": _edited("0.rewards", lambda rewards: rewards.put(0, np.nan)),
    "another shape": lambda pending: pending.update({"0.observations": np.zeros((1, 2), np.float32)}),
    "another dtype": lambda pending: pending.update({"0.rewards": pending["0.rewards"].astype(np.float64)}),
    "another fragment": lambda pending: pending.update({"7.rows": np.zeros(0, np.int64)}),
    "nothing for a column": lambda pending: pending.pop("0.actions"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_pending_transitions_are_refused(of_turns: tuple[Learner, Any], edit: str) -> None:
    learner, _ = of_turns
    saved = copy.deepcopy(learner.save())
    EDITS[edit](saved.tensors["pending"])
    with pytest.raises(ValueError, match="pending"):
        learner.restore(saved)
