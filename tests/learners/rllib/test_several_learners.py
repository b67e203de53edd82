"""rllib_appo and rllib_dqn with two learners in processes of their own, which are equal after each update."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs the extra rllib")

from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.learners.rllib.dqn_algorithm import dqn_config
from rl_lab.learners.rllib.learners import policy_of, restore_state
from rl_lab.learners.rllib.policy_builder import policy_builder

SETTINGS = {
    "rllib_appo": "rollout_fragment_length=8 target_network_update_freq=1 circular_buffer_num_batches=1",
    # An iteration is one step of each world, and one update.
    "rllib_dqn": "num_steps_sampled_before_learning_starts=0 min_sample_timesteps_per_iteration=4"
    " train_batch_size_per_learner=8 target_network_update_freq=20 alpha=0.6",
}
TWO = "env_runners=2 cpus_per_runner=0.5 learners=2 net_arch=[16] lr=0.01"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, when its learners import ray.data


@pytest.fixture(scope="module", params=list(SETTINGS))
def learner(request: pytest.FixtureRequest) -> Iterator[Any]:
    words = [f"agent.{word}" for word in f"{SETTINGS[request.param]} {TWO}".split()]
    made, _ = make_learner(compose("cartpole", [f"agent={request.param}", "worlds=4", "seed=3", *words]))
    assert made.backend.endswith("2 env runners (local), 2 learners on CPUs")
    yield made
    made.close()


def assert_equal(first: dict[str, Any], second: dict[str, Any], members: list[str]) -> None:
    for member in members:
        assert all(np.array_equal(array, second[member][name]) for name, array in first[member].items()), member


def test_learners_are_equal_after_each_update(learner: Any) -> None:
    """Policy, target network and the optimizer's moments, though each has learned from other transitions."""
    for _ in range(12):
        before = copy.deepcopy(learner.save_agent().tensors["policy"])
        assert np.isfinite(list(learner.train_iteration().values())).all()
        first, second = learner._learners.state()
        shared = [name for name in first.tensors if name not in ("generators", "pending")]
        assert {"policy", "optimizer"} <= set(shared)
        assert_equal(first.tensors, second.tensors, shared)
        assert_equal(first.tensors, learner.save_agent().tensors, ["policy"])
        assert any(not np.array_equal(array, first.tensors["policy"][name]) for name, array in before.items())
    assert first.state["last_target_update"] == second.state["last_target_update"] > 0
    # The period of the target network counts the steps that all learners learn from, each of them twice by default.
    assert learner.name != "rllib_appo" or first.state["trained"] == 2 * learner.steps


def test_a_resumed_training_is_the_same(learner: Any) -> None:
    saved, worlds = copy.deepcopy(learner.save()), copy.deepcopy(learner.envs.snapshot())
    results = []
    for _ in range(2):
        learner.envs.restore(worlds)
        learner.restore(saved)
        for _ in range(3):
            learner.train_iteration()
        results.append(copy.deepcopy(learner.save()))
    first, second = results
    assert first.state == second.state and len(first.state["learners"]) == 1
    assert "learner1.generators" in first.tensors
    assert_equal(first.tensors, second.tensors, list(first.tensors))


def test_an_edited_state_is_refused(learner: Any) -> None:
    for edit, said in ((lambda state: state["learners"].clear(), "learners"), (spoil, "last_target_update")):
        saved = copy.deepcopy(learner.save())
        edit(saved.state)
        with pytest.raises(ValueError, match=said):
            learner.restore(saved)


def spoil(state: dict[str, Any]) -> None:
    state["learners"][0]["last_target_update"] = -1


def test_two_learners_update_as_one_does(learner: Any) -> None:
    """Of DQN, whose learners share one minibatch: the mean of their gradients is that of the whole minibatch."""
    if learner.name != "rllib_dqn":
        pytest.skip("learners of rllib_appo have train batches of their own")
    world, policy = learner.envs.world, learner.agent().policy
    build = policy_builder(type(policy), world, {"net_arch": [16], "activation_fn": policy.activation_fn})
    spaces = policy.observation_space, policy.action_space
    config = dqn_config(learner._settings, spaces, build, fragment_length=1, num_envs=4, seed=0, gpu=False)
    one = config.build_learner(env=None, spaces={"default_policy": spaces})
    for _ in range(8):
        learner.train_iteration()  # which fills the replay buffer
    restore_state(one, learner._learners.state()[0])
    columns, _ = learner._replay.sample(16, 1, 0.99)
    learner._update_from(columns)
    one.update_from(columns, learner.steps)
    for name, array in learner._learners.parameters().items():
        assert np.allclose(array, policy_of(one).state_dict()[name].numpy(), rtol=1e-4, atol=1e-6), name
