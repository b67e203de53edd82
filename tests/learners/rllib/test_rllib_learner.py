"""A learner of RLlib's in this process: its settings, its faults, and states that were edited."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from rl_lab.adapters.make import make
from rl_lab.core import agent_registry
from rl_lab.core.agent import Learner, StateDict
from rl_lab.engine.batch import NonFiniteError

pytest.importorskip("ray", reason="needs the extra rllib")


SETTINGS: dict[str, Any] = {
    "train_batch_size_per_learner": 64,
    "minibatch_size": 32,
    "num_epochs": 1,
    "lr": 2e-3,
    "gamma": 0.87,
    "lambda_": 0.7,
    "clip_param": 0.15,
    "vf_clip_param": 3.0,
    "vf_loss_coeff": 0.4,
    "entropy_coeff": 0.02,
    "kl_target": 0.03,
    "grad_clip": 0.3,
    "net_arch": [16],
    "activation": "silu",
}


@pytest.fixture(scope="module")
def learner() -> Iterator[Learner]:
    factory: Any = agent_registry.load("rllib_ppo")
    config = factory.Config(**SETTINGS)
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
    (("tensors", "optimizer", "0.exp_avg_sq"), -np.ones((16, 4), np.float32), "0.exp_avg_sq"),
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


def test_settings_reach_rllib_and_the_network(learner: Any) -> None:
    rllib_config = learner.algorithm.config
    for name in sorted(set(SETTINGS) - {"net_arch", "activation"}):
        assert getattr(rllib_config, name) == SETTINGS[name], name
    assert learner.backend.endswith("acting by torch, updates by torch on the CPU")  # compiled code has no silu
    modules = list(learner.agent().policy.modules())
    assert {type(module) for module in modules} & {torch.nn.SiLU, torch.nn.Tanh, torch.nn.ReLU} == {torch.nn.SiLU}
    assert {module.out_features for module in modules if isinstance(module, torch.nn.Linear)} == {16, 2, 1}


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_changes_nothing(learner: Any, value: float) -> None:
    (wrapped,) = learner.algorithm.learner_group.foreach_learner(lambda each: each.module["default_policy"])
    module = wrapped.get()
    (parameter,) = [each for name, each in module.named_parameters() if name.endswith("value_net.bias")]
    before = copy.deepcopy(learner.save_agent().tensors["policy"])
    hook = parameter.register_hook(lambda gradient: torch.full_like(gradient, value))
    try:
        with pytest.raises(NonFiniteError, match="rllib_ppo: a gradient is not finite"):
            learner.train_iteration()
    finally:
        hook.remove()
    after = learner.save_agent().tensors["policy"]
    assert all(np.array_equal(array, after[name]) for name, array in before.items())


def test_a_message_has_each_parameter_once() -> None:
    """A shared feature extractor has three names in a policy, and most of the parameters of a convolutional network."""
    factory: Any = agent_registry.load("rllib_ppo")
    config = factory.Config(train_batch_size_per_learner=64, minibatch_size=32, policy="cnn")
    made: Learner = factory.learner(config, make("breakout", 4), budget=64, seed=0, device="cpu")
    size = sum(parameter.nbytes for parameter in made.agent().policy.parameters())
    assert size <= len(pickle.dumps(made.save_agent().tensors, protocol=5)) < 1.1 * size
    made.close()
