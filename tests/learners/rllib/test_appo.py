"""APPO of RLlib's: its update beside RLlib's own, parameters that lag behind, and what it goes on from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ray.rllib", reason="needs the extra rllib")

from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.appo.torch import appo_torch_learner
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.training_data import TrainingData
from stable_baselines3.ppo import MlpPolicy
from support.fragments import ROWS, SPACES, STEPS, episodes_of, random_fragment

from rl_lab.adapters.make import make
from rl_lab.core import agent_registry
from rl_lab.evaluation.evaluate import evaluate
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.learners.rllib.appo_algorithm import TRAINING, appo_config

SMALL = "agent.rollout_fragment_length=8 agent.net_arch=[16] agent.lr=0.01 agent.target_network_update_freq=1"
SMALL += " agent.circular_buffer_num_batches=1"


def policy() -> MlpPolicy:
    return MlpPolicy(*SPACES, lambda _: 0.0, net_arch=[16], ortho_init=False)


def settings(**changed: Any) -> Any:
    return agent_registry.load("rllib_appo").Config(**changed)


def stock_learner(config: Any) -> Any:
    stock = APPOConfig().environment(observation_space=SPACES[0], action_space=SPACES[1])
    stock.env_runners(rollout_fragment_length=STEPS)
    batch = {"train_batch_size_per_learner": STEPS * ROWS, "use_circular_buffer": False}
    stock.training(**{name: getattr(config, name) for name in TRAINING}, **batch)
    model = {"fcnet_hiddens": [16], "fcnet_activation": "tanh", "vf_share_layers": False}
    stock.rl_module(model_config={**stock.model_config, **model})
    learner = stock.build_learner(env=None, spaces={"default_policy": SPACES})
    learner.shutdown()  # its thread: the test updates
    return learner


def pairs(ours: Any, stock: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each parameter and RLlib's, of the policy and then of the target network."""
    lab, rllib = (learner.module["default_policy"].unwrapped() for learner in (ours, stock))
    actor = rllib.encoder.actor_encoder, rllib.pi
    critic = rllib.encoder.critic_encoder, rllib.vf
    old = rllib._old_encoder.actor_encoder, rllib._old_pi
    for mine, (encoder, head), net, last in (
        (lab.policy, actor, "policy_net", "action_net"),
        (lab.policy, critic, "value_net", "value_net"),
        (lab.old_policy, old, "policy_net", "action_net"),
    ):
        parameters = [*getattr(mine.mlp_extractor, net).parameters(), *getattr(mine, last).parameters()]
        yield from zip(parameters, [*encoder.parameters(), *head.parameters()], strict=True)


@pytest.mark.parametrize("use_kl_loss", [False, True])
@pytest.mark.parametrize("ends", [0.0, 0.3])
def test_an_update_equals_rllibs(ends: float, use_kl_loss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the same weights and steps: V-trace's targets and advantages, losses, and then both networks."""
    config = settings(
        rollout_fragment_length=STEPS,
        lr=1e-2,
        use_kl_loss=use_kl_loss,
        target_network_update_freq=1,
        circular_buffer_num_batches=1,
        circular_buffer_iterations_per_batch=2,
        vtrace_clip_rho_threshold=0.9,
    )
    ours = appo_config(config, SPACES, policy, num_envs=ROWS, seed=0, gpu=False).build_learner(
        env=None, spaces={"default_policy": SPACES}
    )
    stock = stock_learner(config)
    for mine, theirs in pairs(ours, stock):
        theirs.data.copy_(mine.data)
    targets: list[Any] = []
    vtrace = appo_torch_learner.vtrace_torch
    monkeypatch.setattr(
        appo_torch_learner, "vtrace_torch", lambda **arguments: targets.append(vtrace(**arguments)) or targets[-1]
    )
    for number in range(4):
        fragment = random_fragment(number, ends)
        got = ours.update_from([fragment], 35 * (number + 1), 1)["default_policy"]
        timesteps = {"num_env_steps_trained_lifetime": 35 * number}
        data = TrainingData(episodes=episodes_of(fragment))
        expected = Learner.update(stock, training_data=data, timesteps=timesteps)["default_policy"]
        for a, b in zip(targets[-2], targets[-1], strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        for name in ("total_loss", "policy_loss", "vf_loss", "entropy", "mean_IS"):
            assert float(got[name].peek()) == pytest.approx(float(expected[name].peek()), rel=1e-4, abs=1e-5), name
    for mine, theirs in pairs(ours, stock):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5)
    parameters = ours.module["default_policy"].unwrapped().state_dict()
    new, old = (parameters[f"{which}.action_net.bias"] for which in ("policy", "old_policy"))
    assert not torch.equal(new, old)  # the target network is that of an earlier update


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two runners"])
def learner(request: pytest.FixtureRequest) -> Iterator[Any]:
    more = [f"agent.env_runners={request.param}", "agent.cpus_per_runner=0.5", "worlds=4"]
    made, _ = make_learner(compose("cartpole", ["agent=rllib_appo", *SMALL.split(), *more]))
    played: Any = made
    for _ in range(2):
        played.train_iteration()
    yield played
    played.close()


def test_a_resumed_training_is_the_same(learner: Any) -> None:
    """Three iterations more, and the same again from the saved state, of learner and environments."""
    saved, worlds = copy.deepcopy(learner.save()), copy.deepcopy(learner.envs.snapshot())
    results = []
    for is_resumed in (False, True):
        if is_resumed:
            learner.envs.restore(worlds)
            learner.restore(saved)
        for _ in range(3):
            assert np.isfinite(list(learner.train_iteration().values())).all()
        results.append(copy.deepcopy(learner.save()))
    first, second = results
    assert first.state == second.state and first.state["last_target_update"] > saved.state["last_target_update"]
    for name, arrays in first.tensors.items():
        assert all(np.array_equal(array, second.tensors[name][key]) for key, array in arrays.items()), name


def test_runners_sample_while_the_learner_updates(learner: Any) -> None:
    """The next fragments are begun with the parameters from before the update, in which they are sampled."""
    before = copy.deepcopy(learner.save_agent().tensors["policy"])
    learner.train_iteration()
    after, saved = learner.save_agent().tensors["policy"], learner.save().tensors
    assert any(not np.array_equal(array, after[name]) for name, array in before.items())
    if "env runner" in learner.backend:
        assert all(np.array_equal(array, saved["behaviour"][name]) for name, array in before.items())
    else:
        assert "behaviour" not in saved


EDITS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("state", "algorithm"), "rllib_ppo", "the state of 'rllib_ppo'"),
    (("state", "kl_coeff"), -1.0, "kl_coeff is"),
    (("state", "trained"), "x", "trained is"),
    (("tensors", "target"), ..., "target is missing"),
    (("tensors", "target", "action_net.bias"), np.full(2, np.nan, np.float32), "action_net.bias"),
]


@pytest.mark.parametrize(("path", "value", "said"), EDITS)
def test_an_edited_state_is_refused(path: tuple[Any, ...], value: Any, said: str, learner: Any) -> None:
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


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learners": 1}, "learners=1 share the fragments of env_runners=0: 1 can be shared"),
        ({"rollout_fragment_length": 0}, "rollout_fragment_length=0"),
        ({"policy": "cnn"}, "observes a vector"),
    ],
)
def test_wrong_settings_are_one_line(changed: dict[str, Any], said: str) -> None:
    factory: Any = agent_registry.load("rllib_appo")
    with pytest.raises(ValueError) as caught:
        factory.learner(settings(**changed), make("cartpole", 1), budget=100, seed=0, device="cpu")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_it_learns_cartpole() -> None:
    """Random play balances the pole for 22 steps."""
    factory: Any = agent_registry.load("rllib_appo")
    made = factory.learner(settings(), make("cartpole", 8), budget=40_000, seed=0, device="cpu")
    try:
        while made.steps < 40_000:
            made.train_iteration()
        assert evaluate(made.agent(), "cartpole", {}, episodes=50).summary["mean_return"] > 80
    finally:
        made.close()
