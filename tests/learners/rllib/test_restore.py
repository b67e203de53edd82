"""The state of a learner of RLlib's in a checkpoint that was edited is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rl_lab.adapters.make import make
from rl_lab.core import agent_registry
from rl_lab.core.agent import Learner, StateDict

pytest.importorskip("ray", reason="needs the extra rllib")


@pytest.fixture(scope="module")
def learner() -> Iterator[Learner]:
    factory: Any = agent_registry.load("rllib_ppo")
    config = factory.Config(train_batch_size_per_learner=64, minibatch_size=32, num_epochs=1)
    made: Learner = factory.learner(config, make("cartpole", 4), budget=640, seed=0, device="cpu")
    made.train_iteration()
    yield made
    made.close()


EDITS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("state", "algorithm"), "ppo", "the state of 'ppo'"),
    (("state", "steps"), 2**70, "steps is"),
    (("state", "steps"), ..., "steps is missing"),
    (("state", "kl_coeff"), float("nan"), "kl_coeff is"),
    (("state", "kl_coeff"), -1.0, "kl_coeff is"),
    (("state", "returns"), ["x"], "returns is"),
    (("state", "lengths"), None, "lengths is"),
    (("state", "numpy", "pos"), 10**9, "generator's position is"),
    (("state", "python", 1), [1], "expected a list of 625"),
    (("tensors", "policy", "action_net.bias"), np.zeros(3, np.float32), "action_net.bias"),
    (("tensors", "policy", "action_net.bias"), np.full(2, np.nan, np.float32), "action_net.bias"),
    (("tensors", "optimizer", "0.exp_avg_sq"), -np.ones((64, 4), np.float32), "0.exp_avg_sq"),
    (("tensors", "optimizer", "99.exp_avg"), np.zeros(1, np.float32), "there is no 99.exp_avg"),
    (("tensors", "optimizer"), ..., "optimizer is missing"),
]


@pytest.mark.parametrize(("path", "value", "said"), EDITS)
def test_an_edited_state_is_refused(learner: Learner, path: tuple[Any, ...], value: Any, said: str) -> None:
    saved = copy.deepcopy(learner.save())
    node: Any = {"state": saved.state, "tensors": saved.tensors}
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    with pytest.raises(ValueError) as caught:
        learner.restore(saved)
    assert said in str(caught.value)


def test_what_was_saved_is_restored(learner: Learner) -> None:
    """Two iterations from the same state, of learner and environments, end alike."""
    saved = copy.deepcopy(learner.save())
    envs: Any = getattr(learner, "envs")  # noqa: B009 (of these learners only)
    worlds = envs.snapshot()
    results: list[StateDict] = []
    for _ in range(2):
        envs.restore(worlds)
        learner.restore(saved)
        learner.train_iteration()
        results.append(copy.deepcopy(learner.save()))
    first, second = results
    assert first.state == second.state
    for name, arrays in first.tensors.items():
        assert all(np.array_equal(array, second.tensors[name][key]) for key, array in arrays.items())
