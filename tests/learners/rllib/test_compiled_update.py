"""The compiled update beside RLlib's own torch learner: parameters, moments, coefficient and metrics of one batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("ray.rllib", reason="needs the extra rllib")

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.minibatch_utils import MiniBatchCyclicIterator
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy

from rl_lab.core import agent_registry
from rl_lab.engine.batch import NonFiniteError
from rl_lab.learners.rllib.algorithm import algorithm_config
from rl_lab.learners.rllib.compiled_update import minibatch_order
from rl_lab.learners.rllib.fragment import Fragment
from rl_lab.learners.rllib.ppo_learner import LabPPOTorchLearner
from rl_lab.learners.sb3.policies import BoardCnn

STEPS, ROWS, ACTIONS = 9, 11, 4
VECTORS, BOARDS = Box(-np.inf, np.inf, (5,), np.float32), Box(0, 1, (6, 5, 2), np.uint8)
DISCRETE, CONTINUOUS = Discrete(ACTIONS), Box(-1.0, 1.0, (2,), np.float32)
COEFFICIENTS = {"lr": 1e-3, "lambda_": 0.9, "entropy_coeff": 0.02, "vf_loss_coeff": 0.6, "vf_clip_param": 1.5}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: with more, small products wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learners(
    observations: Box, actions: Any, *, masked: bool = False, **more: Any
) -> tuple[LabPPOTorchLearner, LabPPOTorchLearner]:
    """Return a compiled learner and RLlib's, with the same weights."""
    kind = MaskableActorCriticPolicy if masked else ActorCriticPolicy
    arguments: dict[str, Any] = {"net_arch": [24], "activation_fn": torch.nn.Tanh}
    if observations is BOARDS:
        arguments |= {"features_extractor_class": BoardCnn, "normalize_images": False}

    def build() -> Any:
        torch.manual_seed(3)
        return kind(observations, actions, lambda _: 1e-3, **arguments)

    factory: Any = agent_registry.load("rllib_ppo")
    sizes: dict[str, Any] = {"fragment_length": STEPS, "num_envs": ROWS, "seed": 0, "gpu": False}
    made = []
    for compiled in (True, False):
        settings = factory.Config(**COEFFICIENTS, **more, compiled=compiled)
        config = algorithm_config(settings, (observations, actions), build, **sizes)
        learner = LabPPOTorchLearner(config=config, module_spec=config.get_multi_rl_module_spec())
        learner.build()
        made.append(learner)
    assert (made[0].compiled is not None, made[1].compiled) == (True, None)
    return made[0], made[1]


def fragment(learner: LabPPOTorchLearner, rng: np.random.Generator, *, masked: bool) -> Fragment:
    """Return a fragment sampled by other weights than the learner's, or every ratio would be 1."""
    module = copy.deepcopy(learner.module[DEFAULT_MODULE_ID].unwrapped())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.from_numpy(rng.normal(size=tuple(parameter.shape)).astype(np.float32)))
    space = module.observation_space

    def observe(*shape: int) -> np.ndarray:
        size = *shape, *space.shape
        return (rng.integers(0, 2, size) if space.dtype == np.uint8 else rng.normal(size=size)).astype(space.dtype)

    terminated, truncated = rng.random((2, STEPS, ROWS)) < 0.15
    observations = observe(STEPS, ROWS)
    mask = (rng.random((STEPS + 1, ROWS, ACTIONS)) < 0.6).astype(np.uint8)
    mask[..., 1] = 1
    batch = {"obs": torch.from_numpy(observations.reshape(-1, *space.shape))}
    if masked:
        batch["action_mask"] = torch.from_numpy(mask[:-1].reshape(-1, ACTIONS) != 0)
    with torch.no_grad():
        inputs = module.outputs(batch)[0]
        distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
        actions = distribution.sample()
        log_probs = distribution.logp(actions)
    shape = STEPS, ROWS
    return Fragment(
        observations=observations,
        last_observations=observe(ROWS),
        final_observations=observe(int((terminated | truncated).sum())),
        actions=actions.numpy().reshape(*shape, *actions.shape[1:]),
        action_logp=log_probs.numpy().reshape(shape),
        action_dist_inputs=inputs.numpy().reshape(*shape, -1),
        rewards=rng.normal(size=shape).astype(np.float32),
        terminated=terminated,
        truncated=truncated & ~terminated,
        action_mask=mask[:-1] if masked else None,
        last_action_mask=mask[-1] if masked else None,
    )


def update(learner: LabPPOTorchLearner, sampled: Fragment, *, seed: int = 0, minibatch_size: int = 32) -> Any:
    np.random.seed(seed)
    result = learner.update(
        training_data=TrainingData(episodes=[sampled]),
        timesteps={"num_env_steps_sampled_lifetime": 10},
        num_epochs=3,
        minibatch_size=minibatch_size,
        shuffle_batch_per_epoch=True,
    )[DEFAULT_MODULE_ID]
    return {name: float(getattr(value, "peek", lambda value=value: value)()) for name, value in result.items()}


def assert_equal(compiled: LabPPOTorchLearner, torchs: LabPPOTorchLearner) -> None:
    states = [learner.module[DEFAULT_MODULE_ID].unwrapped().state_dict() for learner in (compiled, torchs)]
    for name, tensor in states[1].items():
        assert torch.allclose(states[0][name], tensor, rtol=1e-5, atol=1e-5), name
    optimizers = [learner.get_optimizer(DEFAULT_MODULE_ID).state_dict()["state"] for learner in (compiled, torchs)]
    assert optimizers[0].keys() == optimizers[1].keys()
    for index, entry in optimizers[1].items():
        for name, tensor in entry.items():
            assert torch.allclose(optimizers[0][index][name], tensor, rtol=1e-4, atol=1e-6), (index, name)


CASES: dict[str, tuple[Box, Any, dict[str, Any]]] = {
    "vectors": (VECTORS, DISCRETE, {}),
    "masks": (VECTORS, DISCRETE, {"masked": True}),
    "continuous": (VECTORS, CONTINUOUS, {}),
    "boards": (BOARDS, DISCRETE, {}),
    "clipped gradients": (VECTORS, DISCRETE, {"grad_clip": 0.05}),
    "no divergence": (VECTORS, CONTINUOUS, {"use_kl_loss": False, "grad_clip": 0.05}),
    "large divergence": (VECTORS, DISCRETE, {"masked": True, "kl_target": 1e-4, "kl_coeff": 2.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_updates_equal_rllibs(case: str) -> None:
    """Two updates, so that the second begins with moments and with an adapted coefficient."""
    observations, actions, more = CASES[case]
    compiled, torchs = learners(observations, actions, **more)
    rng = np.random.default_rng(sum(map(ord, case)))
    for seed in range(2):
        sampled = fragment(compiled, rng, masked=more.get("masked", False))
        metrics, expected = (update(learner, sampled, seed=seed) for learner in (compiled, torchs))
        names = "total_loss policy_loss vf_loss vf_loss_unclipped vf_explained_var entropy mean_kl_loss".split()
        names += ["curr_entropy_coeff"] + ["curr_kl_coeff"] * more.get("use_kl_loss", True)
        for name in names:
            assert metrics[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
        assert_equal(compiled, torchs)
    coefficients = [float(each.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]) for each in (compiled, torchs)]
    assert coefficients[0] == coefficients[1]
    if case in ("no divergence", "large divergence"):  # the other cases may adapt it
        assert coefficients[0] == pytest.approx(0.2 if case == "no divergence" else 2.0 * 1.5**2)


def test_compiled_and_torch_take_turns() -> None:
    """The moments are the tensors': what one of them has left, the other continues."""
    first, second = learners(VECTORS, DISCRETE)
    rng, code = np.random.default_rng(0), first.compiled
    for seed in range(3):
        first.compiled = None if seed == 1 else code
        sampled = fragment(second, rng, masked=False)
        update(first, sampled, seed=seed)
        update(second, sampled, seed=seed)
        assert_equal(first, second)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    compiled, _ = learners(VECTORS, DISCRETE)
    rng = np.random.default_rng(0)
    good, bad = (fragment(compiled, rng, masked=False) for _ in range(2))
    bad.rewards[3, 4] = np.nan
    other, _ = learners(VECTORS, DISCRETE)
    with pytest.raises(NonFiniteError, match="rllib_ppo: a gradient is not finite, of "):
        update(compiled, bad)
    update(compiled, good)
    update(other, good)
    states = [learner.module[DEFAULT_MODULE_ID].unwrapped().state_dict() for learner in (compiled, other)]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


@given(
    rows=st.integers(1, 40),
    minibatch_size=st.integers(1, 50),
    num_epochs=st.integers(1, 4),
    shuffle=st.booleans(),
    total=st.sampled_from([0, 1, 7]),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_minibatches_are_rllibs(rows: int, minibatch_size: int, num_epochs: int, shuffle: bool, total: int) -> None:
    batch = MultiAgentBatch({"p": SampleBatch({"row": np.arange(rows)})}, rows)
    np.random.seed(rows)
    minibatches = MiniBatchCyclicIterator(
        batch,
        num_epochs=num_epochs,
        minibatch_size=minibatch_size,
        shuffle_batch_per_epoch=shuffle,
        num_total_minibatches=total,
    )
    expected = np.concatenate([minibatch["p"]["row"] for minibatch in minibatches])
    following = np.random.random()
    np.random.seed(rows)
    order = minibatch_order(rows, minibatch_size, num_epochs=num_epochs, shuffle=shuffle, num_total_minibatches=total)
    assert np.array_equal(order, expected)
    assert np.random.random() == following
