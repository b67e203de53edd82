"""A backbone in RLlib's agents: loaded to the bit, as in the other code paths, frozen or not, encoded, and restored."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ray", reason="needs the extra rllib")

from support.backbones import learner_of as sb3_learner_of
from support.backbones import settings_of, write_backbone

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.learners.pretraining.model import tensor_hash
from rl_lab.learners.pretraining.settings import BackboneSettings

AGENTS = ["rllib_ppo", "rllib_appo", "rllib_dqn"]
SMALL: dict[str, dict[str, Any]] = {  # 64 steps in each iteration
    "rllib_ppo": {"train_batch_size_per_learner": 64, "minibatch_size": 32, "num_epochs": 2},
    "rllib_appo": {"rollout_fragment_length": 16},
    "rllib_dqn": {
        "rollout_fragment_length": 4,
        "min_sample_timesteps_per_iteration": 64,
        "num_steps_sampled_before_learning_starts": 32,
    },
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let torch use one thread, as a scenario does by default."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learner_of(settings: BackboneSettings | None, agent: str, *, world: str = "cartpole", **config: Any) -> Any:
    """Return a small learner on 4 worlds in this process."""
    factory = agent_registry.load(agent)
    values = factory.Config(**{**SMALL[agent], "lr": 1e-3, **config})
    return factory.learner(values, make.make(world, 4, seed=3), budget=4096, seed=3, device="cpu", backbone=settings)


def trunk_hash(tensors: dict[str, Any], network: str = "") -> str:
    """Return the hash of the trunk among a policy's parameters, of one network of several where it is named."""
    prefix = f"{network}features_extractor.backbone."
    return tensor_hash(
        {n.removeprefix(prefix): torch.as_tensor(v.copy()) for n, v in tensors.items() if n.startswith(prefix)}
    )


def network_of(agent: str) -> str:
    return "q_net." if agent == "rllib_dqn" else ""


@pytest.mark.parametrize(
    ("agent", "mode"), [*((agent, "finetune") for agent in AGENTS), ("rllib_ppo", "encoded"), ("rllib_dqn", "encoded")]
)
def test_what_acts_has_the_parameters_of_what_learns(tmp_path: Path, agent: str, mode: str) -> None:
    model = write_backbone(tmp_path / "b")
    learner = learner_of(settings_of(tmp_path / "b", mode=mode), agent)
    for _ in range(2):
        acting, learning = (saved.tensors["policy"] for saved in (learner.save_agent(), learner.save()))
        assert all(np.array_equal(acting[name], value) for name, value in learning.items())
        if learner.steps == 0 and mode == "finetune":
            networks = ("q_net.", "q_net_target.") if agent == "rllib_dqn" else ("",)
            for network in networks:
                assert trunk_hash(acting, network) == tensor_hash(model.trunk.state_dict())
        learner.train_iteration()


@pytest.mark.parametrize("mode", ["finetune", "encoded"])
def test_all_paths_have_the_same_features(tmp_path: Path, mode: str) -> None:
    """Of the compiled path, the logits are compared, which are linear in the features."""
    model = write_backbone(tmp_path / "b")
    settings = settings_of(tmp_path / "b", mode=mode)
    learner = learner_of(settings, "rllib_ppo")
    assert "acting by compiled code, updates by compiled code; backbone: mlp " in learner.backend
    assert learner.backend.endswith(f", {mode}, parts trunk+policy+value")
    fragment, obs = learner.algorithm.env_runner.sample(), torch.randn(32, 4)
    with torch.no_grad():
        features, encoder = model(obs), learner.agent().encoder
        if encoder is not None:
            assert torch.allclose(torch.from_numpy(encoder(obs.numpy())), features, atol=1e-5)
            expected = model.policy(torch.from_numpy(fragment.observations).flatten(0, 1))
            ends = torch.from_numpy(encoder(learner.envs.observations[:, 0]))
            assert torch.allclose(torch.from_numpy(fragment.last_observations), ends, atol=1e-6)
            assert fragment.final_observations.shape[1:] == (64,)
        else:
            sb3 = sb3_learner_of(settings).model.policy
            for policy in (sb3, learner.agent().policy):
                assert torch.allclose(policy.extract_features(obs), features, atol=1e-5)
            expected = model.policy(model(torch.from_numpy(fragment.observations).flatten(0, 1)))
    assert torch.allclose(torch.from_numpy(fragment.action_dist_inputs).flatten(0, 1), expected, atol=1e-5)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_trunk_is_frozen_bit_for_bit_or_learns(tmp_path: Path, agent: str) -> None:
    model = write_backbone(tmp_path / "b")
    original = tensor_hash(model.trunk.state_dict())
    for mode in ("frozen", "finetune"):
        learner = learner_of(settings_of(tmp_path / "b", mode=mode), agent)
        before = learner.save().tensors["policy"]
        learner.train_iteration()
        after = learner.save().tensors["policy"]
        assert (trunk_hash(after, network_of(agent)) == original) == (mode == "frozen")
        heads = [name for name in before if "features_extractor" not in name and "target" not in name]
        assert any(not np.array_equal(before[name], after[name]) for name in heads)


@pytest.mark.parametrize("agent", AGENTS)
def test_frozen_then_finetune_learns_from_the_given_step(tmp_path: Path, agent: str) -> None:
    model = write_backbone(tmp_path / "b")
    original = tensor_hash(model.trunk.state_dict())
    learner = learner_of(settings_of(tmp_path / "b", mode="frozen_then_finetune", freeze_steps=128), agent)
    hashes = []
    for _ in range(3):
        learner.train_iteration()
        hashes.append(trunk_hash(learner.save().tensors["policy"], network_of(agent)))
    assert hashes[0] == hashes[1] == original != hashes[2]


@pytest.mark.parametrize("world", ["cartpole", "tic_tac_toe"])
def test_encoded_observations_give_the_frozen_policys_actions(tmp_path: Path, world: str) -> None:
    model = write_backbone(tmp_path / "b", world=world)
    frozen, encoded = (
        learner_of(settings_of(tmp_path / "b", mode=mode), "rllib_ppo", world=world) for mode in ("frozen", "encoded")
    )
    observations = np.random.default_rng(0).normal(size=(200, *frozen.envs.observations.shape[2:]))
    observations = observations.astype(frozen.envs.observations.dtype)
    with torch.no_grad():
        best = model.policy(model(torch.from_numpy(observations))).topk(2).values.numpy()
    is_clear = best[:, 0] - best[:, 1] > 1e-4  # rounding may decide between equal actions
    first, second = (learner.agent().act(observations)[0] for learner in (frozen, encoded))
    assert is_clear.any() and np.array_equal(first[is_clear], second[is_clear])


@pytest.mark.parametrize("agent", AGENTS)
def test_an_encoded_agent_is_saved_with_its_encoder(tmp_path: Path, agent: str) -> None:
    model = write_backbone(tmp_path / "b", kind="mlp", layer_norm=True)
    settings = settings_of(tmp_path / "b", mode="encoded")
    learner = learner_of(settings, agent)
    learner.train_iteration()
    factory, observations = agent_registry.load(agent), np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    expected = learner.agent().act(observations)[0].tolist()
    for saved in (learner.save_agent(), learner.save()):
        arrays = {name: torch.from_numpy(value) for name, value in saved.tensors["encoder"].items()}
        assert tensor_hash(arrays) == tensor_hash(model.trunk.state_dict())
        loaded = factory.load(factory.Config(), learner.envs.world, saved, device="cpu", backbone=settings)
        assert loaded.act(observations)[0].tolist() == expected


@pytest.mark.parametrize(
    ("agent", "values"),
    [
        ("rllib_ppo", {"mode": "frozen"}),
        ("rllib_appo", {"mode": "frozen_then_finetune", "freeze_steps": 128}),
        ("rllib_ppo", {"mode": "encoded"}),
        ("rllib_dqn", {"mode": "encoded"}),
    ],
    ids=str,
)
def test_a_restored_learner_continues_bit_for_bit(tmp_path: Path, agent: str, values: dict[str, Any]) -> None:
    write_backbone(tmp_path / "b")
    settings = settings_of(tmp_path / "b", **values)
    first, second = learner_of(settings, agent), learner_of(settings, agent)
    first.train_iteration()
    saved, worlds = copy.deepcopy(first.save()), first.envs.snapshot()
    first.train_iteration()
    first.train_iteration()
    second.envs.restore(worlds)
    second.restore(saved)
    second.train_iteration()
    second.train_iteration()
    tensors, again = first.save().tensors, second.save().tensors
    assert set(tensors) == set(again)
    for member, arrays in tensors.items():
        assert all(np.array_equal(array, again[member][name]) for name, array in arrays.items()), member


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"learning_rate": 0.0}, "backbone.learning_rate is for agent=ppo"),
        ({"critic_warmup": 64}, "backbone.critic_warmup is for agent=ppo"),
        ({"kl_coef": 1.0, "kl_steps": 64}, "backbone.kl_coef is for agent=ppo"),
        ({"parts": ["trunk", "policy"]}, "a Q-network has no such head"),
    ],
    ids=str,
)
def test_what_rllib_has_not_is_refused(tmp_path: Path, values: dict[str, Any], expected: str) -> None:
    write_backbone(tmp_path / "b")
    with pytest.raises(ValueError) as caught:
        learner_of(settings_of(tmp_path / "b", **values), "rllib_dqn")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_code_of_ones_own_stays_in_this_process(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    settings = settings_of(tmp_path / "b")
    settings.spec["network"]["kind"] = "mine.py:Encoder"
    from rl_lab.learners.rllib.policy_builder import policy_builder

    with pytest.raises(ValueError, match="it needs agent.env_runners=0"):
        policy_builder(None, make.make("cartpole", 1).world, {}, settings, processes=1)


@pytest.mark.slow  # it starts Ray's processes
@pytest.mark.parametrize("mode", ["frozen", "encoded"])
def test_an_env_runner_in_another_process_has_the_backbone(tmp_path: Path, mode: str) -> None:
    model = write_backbone(tmp_path / "b")
    words = "agent=rllib_ppo agent.env_runners=1 agent.cpus_per_runner=0.5 worlds=4 seed=3"
    words += " agent.train_batch_size_per_learner=64 agent.minibatch_size=32 agent.num_epochs=2 agent.lr=1e-3"
    learner, _ = make_learner(compose("cartpole", [*words.split(), f"backbone={tmp_path / 'b'}", f"mode={mode}"]))
    try:
        for _ in range(2):
            learner.train_iteration()
            acting, saved = learner.save_agent().tensors, learner.save().tensors
            assert all(np.array_equal(acting["policy"][name], value) for name, value in saved["policy"].items())
        trunk = acting["policy"] if mode == "frozen" else acting["encoder"]
        arrays = {name.removeprefix("features_extractor.backbone."): value for name, value in trunk.items()}
        for name, value in model.trunk.state_dict().items():
            assert np.array_equal(arrays[name], value.numpy())
    finally:
        learner.close()  # type: ignore[attr-defined]
