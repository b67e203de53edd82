"""Env runners on a cluster of two nodes, some of which are lost; and learners in several processes."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra rllib")

import ray
from stable_baselines3.ppo import MlpPolicy
from support.ray_clusters import cluster_of
from support.time_limits import within

from rl_lab.core.errors import WorkFailed
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.learners.rllib import collector
from rl_lab.learners.rllib.algorithm import algorithm_config
from rl_lab.learners.rllib.learners import Learners
from rl_lab.learners.rllib.policy_builder import policy_builder

WORDS = "agent=rllib_ppo agent.env_runners=2 worlds=4 seed=7 agent.train_batch_size_per_learner=64"
WORDS += " agent.minibatch_size=32 agent.num_epochs=2 agent.net_arch=[16]"


class Attached:
    """A learner of two env runners, one on each node of a cluster, and what two iterations more make of its state."""

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self.nodes, self.cluster = nodes, cluster
        scenario = compose("cartpole", [*WORDS.split(), f"cluster={cluster.address}"])
        learner, envs = make_learner(scenario)
        self.learner: Any = learner
        self.envs: Any = envs
        self.initial = copy.deepcopy(self.learner.save()), self.envs.snapshot()
        self.learner.train_iteration()
        self.saved = copy.deepcopy(self.learner.save()), self.envs.snapshot()
        self.expected = self.after(2)

    def after(self, iterations: int, *, saved: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """Return the state, and that of the environments, so many iterations after the saved one."""
        state, worlds = saved or self.saved
        self.learner.restore(state)
        self.envs.restore(worlds)
        for _ in range(iterations):
            assert np.isfinite(list(self.learner.train_iteration().values())).all()
        return copy.deepcopy(self.learner.save()), self.envs.snapshot()


def assert_equal(result: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    (saved, worlds), (expected_state, expected_worlds) = result, expected
    assert saved.state == expected_state.state
    for member, expected_member in [*zip(saved.tensors.items(), expected_state.tensors.items(), strict=True)]:
        assert member[0] == expected_member[0]
        assert all(np.array_equal(array, expected_member[1][name]) for name, array in member[1].items()), member[0]
    assert all(np.array_equal(array, expected_worlds[name]) for name, array in worlds.items())


def process_of(runner: Any) -> int:
    """Return the number of a runner's process, once it has started."""
    limit = time.monotonic() + 120
    while True:
        try:
            return int(ray.get(runner.apply.remote(lambda _: os.getpid()), timeout=60))
        except ray.exceptions.ActorUnavailableError:
            assert time.monotonic() < limit
            time.sleep(0.2)


@pytest.fixture(scope="module")
def attached() -> Iterator[Attached]:
    with cluster_of(2) as (cluster, nodes):
        made = Attached(cluster, nodes)
        try:
            yield made
        finally:
            made.learner.close()


def test_two_resumes_are_identical(attached: Attached) -> None:
    assert_equal(attached.after(2), attached.expected)


def test_a_training_that_is_stopped_before_its_first_fragment_resumes(attached: Attached) -> None:
    assert_equal(attached.after(1, saved=attached.initial), attached.saved)


@pytest.mark.parametrize("is_hung", [False, True])
def test_a_lost_runner_changes_nothing(attached: Attached, is_hung: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner is killed while it samples, or stops for good; the other one samples its part."""
    runners = attached.learner.collector.runners
    victim, _ = [process_of(runner) for runner in runners]
    while not {(0, 0), (1, 1)} <= attached.learner.collector.prepared:  # one was lost in the test before
        attached.after(1)
    monkeypatch.setattr(attached.learner.collector, "timeout", 3.0 if is_hung else 120.0)
    attached.after(0)
    before = attached.learner.steps
    os.kill(victim, signal.SIGSTOP)  # so that it is in the middle of a fragment
    killer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    if not is_hung:
        killer.start()
    with within(15):
        attached.learner.train_iteration()
    attached.learner.train_iteration()
    killer.cancel()
    assert attached.learner.steps == before + 2 * 64
    assert_equal((copy.deepcopy(attached.learner.save()), attached.envs.snapshot()), attached.expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, when its learners import ray.data
def test_learners_stay_equal(attached: Attached) -> None:
    """Two learners with different fragments have equal parameters after each update, which a restored pair repeats."""
    scenario = compose("cartpole", [*WORDS.split(), "agent.learners=2"])
    policy, recipes = attached.learner.agent().policy, attached.envs.recipes
    build = policy_builder(MlpPolicy, attached.envs.world, {"net_arch": [16]})
    spaces, sizes = (policy.observation_space, policy.action_space), {"fragment_length": 32, "num_envs": 2}
    config = algorithm_config(scenario.config, spaces, build, recipes=recipes, seed=1, gpu=False, **sizes)
    pair = Learners(config.build_learner_group(), timeout=60)
    fragments = [ray.put(part.fragment) for _, part in attached.learner.collector.collect(1, parameters_of(attached))]
    begun = pair.state()
    seen = []
    for _ in range(2):
        pair.restore(begun, with_pending=True)
        for number in (1, 2):
            arguments = {"num_epochs": 2, "minibatch_size": 32, "shuffle_batch_per_epoch": True}
            timesteps = {"num_env_steps_sampled_lifetime": 128 * number}
            pair.update(fragments, num_total_minibatches=4, timesteps=timesteps, **arguments)
            first, second = (state.tensors["policy"] for state in pair.state())
            assert all(np.array_equal(array, second[name]) for name, array in first.items())
        assert any(not np.array_equal(array, begun[0].tensors["policy"][name]) for name, array in first.items())
        seen.append(first)
    assert all(np.array_equal(array, seen[1][name]) for name, array in seen[0].items())


def parameters_of(attached: Attached) -> Any:
    return attached.learner.save().tensors["policy"]


def test_lost_nodes(attached: Attached, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one node left the result is the same; with none, the training ends with one line."""
    attached.cluster.remove_node(attached.nodes[0], allow_graceful=False)
    assert_equal(attached.after(2), attached.expected)
    monkeypatch.setattr(collector, "RESTART", 1.0)
    attached.after(1)  # reads the limit
    attached.cluster.remove_node(attached.nodes[1], allow_graceful=False)
    with pytest.raises(WorkFailed, match="no env runner is left, and none could be started again within 1 s"):
        attached.learner.train_iteration()
